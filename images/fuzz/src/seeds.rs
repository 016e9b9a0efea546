//! Makes the first inputs of every target, `corpus/TARGET/` in the folder that is named: a small release made
//! by the library itself, and by hand what no honest release has. The same program makes the same files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use drydock_fuzz::{FrameInput, RebuildInput, signed_by_mistake};
use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::channel::Document;
use drydock_images::chunk::{Chunk, ChunkId, ChunkIndex, ChunkList, Frame, Page, encode_frame};
use drydock_images::delta::{
    Delta, DeltaArtifact, DeltaHead, DeltaHeader, Packing, Reference, Run, SEGMENT_BYTES, Segment,
    SegmentFrame, SegmentId, Source, segments_to_bytes,
};
use drydock_images::layout::{self, TargetKind};
use drydock_images::manifest::IndexRef;
use drydock_images::verity::{BlockSize, HashAlgorithm, Parameters, Salt, Superblock};
use drydock_images::{
    Advisory, Carries, Channel, ChannelRelease, Digest, Guard, Manifest, Progress, SPAN_BYTES, Severity,
    SharedState, Vulnerability, Withdrawal, WithdrawnMark,
};
use jiff::Timestamp;
use zstd::zstd_safe::CCtx;

/// Where the seeds of every target lie.
struct Corpus {
    dir: PathBuf,
}

impl Corpus {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) {
        let dir = self.dir.join(target);
        fs::create_dir_all(&dir).expect("the corpus can be written");
        fs::write(dir.join(format!("seed-{name}")), bytes).expect("the corpus can be written");
    }
}

fn main() {
    let dir = std::env::args_os().nth(1).expect("the corpus' folder is named");
    let corpus = Corpus {
        dir: PathBuf::from(dir),
    };
    let manifest = release(&corpus);
    documents(&corpus, manifest.digest());
    for (name, input) in frames() {
        corpus.put("frame", name, &input);
    }
    rebuild(&corpus);
    delta(&corpus, manifest.digest());
    verity(&corpus);
    names(&corpus, manifest.digest());
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes.take(length).collect()
}

/// A release of four images; its manifest, indexes, pages, and the frames that begin an image.
fn release(corpus: &Corpus) -> Manifest {
    let work = tempfile::tempdir().unwrap();
    let text = b"what a small file of an image says, again and again\n".repeat(300);
    let images = [
        ("noise", noise(1, 30_000)),
        ("zeros", vec![0; 300_000]),
        ("repeats", noise(2, 900).repeat(400)),
        (
            "mixed",
            [text.as_slice(), &vec![0; 200_000], &noise(3, 20_000), &text].concat(),
        ),
    ];
    let source = |(name, bytes): &(&str, Vec<u8>)| {
        let path = work.path().join(name);
        fs::write(&path, bytes).unwrap();
        let verity_root = (*name == "mixed").then(|| "ab".repeat(32).parse().unwrap());
        ArtifactSource {
            name: name.parse().unwrap(),
            path,
            verity_root,
        }
    };
    let request = BuildRequest {
        name: "harbor".parse().unwrap(),
        version: "1.4".parse().unwrap(),
        board: "generic".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        min_from: Some("1.2".parse().unwrap()),
        floor: Some("1.0~rc1".parse().unwrap()),
        carries: Carries {
            guard: Some(Guard { protocol: 1 }),
            kubelet: Some("v1.34.2".parse().unwrap()),
            kernel: Some(Digest::of(b"kernel")),
            state: SharedState::default(),
        },
        artifacts: images.iter().map(source).collect(),
        out: work.path().join("release"),
        after: Vec::new(),
        level: 9,
        progress: Progress::none(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let built = runtime.block_on(build(request)).unwrap();
    corpus.put("manifest", "whole", built.manifest.bytes());
    let mut least = (*built.manifest).clone();
    least.artifacts.truncate(1);
    (least.min_from, least.floor) = (None, None);
    least.carries = Carries {
        guard: None,
        kubelet: None,
        kernel: None,
        state: SharedState::default(),
    };
    corpus.put(
        "manifest",
        "least",
        Manifest::seal(least.clone()).unwrap().bytes(),
    );
    let artifact = &mut least.artifacts[0];
    artifact.size = 2 * SPAN_BYTES + 1;
    artifact.spans = vec![artifact.digest; 3];
    corpus.put("manifest", "spans", Manifest::seal(least).unwrap().bytes());
    corpus.put("manifest", "newer", br#"{"format":2}"#);
    for artifact in &built.manifest.artifacts {
        let read = |path: String| fs::read(built.path.join(path)).unwrap();
        let index = read(layout::index_path(&artifact.index.digest));
        let pack = read(layout::pack_path(&artifact.index.digest));
        pages_of(corpus, artifact.name.as_str(), &index, &pack);
    }
    built.manifest
}

fn pages_of(corpus: &Corpus, name: &str, index: &[u8], pack: &[u8]) {
    corpus.put("index", name, index);
    for (number, named) in ChunkIndex::parse(index).unwrap().pages().iter().enumerate() {
        let at = named.page_at as usize;
        let stored = &pack[at..at + named.page_bytes as usize];
        let page = named.read(stored).unwrap();
        corpus.put("page", &format!("{name}-{number}"), stored);
        // Without the ground of the bytes before it, only an image's first frame is one; a long one is slow.
        if let (0, Some(frame)) = (number, page.frames().first()) {
            let stored = &pack[..frame.stored_bytes as usize];
            let input = FrameInput {
                content_bytes: frame.content_bytes,
                before: b"",
                stored,
            };
            if stored.len() < 8_000 {
                corpus.put("frame", name, &input.join());
            }
        }
    }
}

fn documents(corpus: &Corpus, digest: Digest) {
    let at: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    let release = |seed: &[u8], version: &str, withdrawn| ChannelRelease {
        digest: Digest::of(seed),
        version: version.parse().unwrap(),
        published_at: at,
        withdrawn,
        stepping_stone: version == "1.1",
    };
    let mark = WithdrawnMark {
        reason: "does not boot".to_owned(),
        at,
    };
    let channel = Channel {
        format: 1,
        name: "stable".parse().unwrap(),
        releases: vec![
            release(b"0", "1.0", None),
            release(b"1", "1.1", None),
            release(b"2", "1.2", Some(mark)),
        ],
    };
    let flaw = |id: &str, severity| Vulnerability {
        id: id.to_owned(),
        severity,
    };
    let advisory = Advisory {
        format: 1,
        digest,
        notes: "Fixes a flaw.\n".to_owned(),
        vulnerabilities: vec![
            flaw("CVE-2026-0001", Severity::High),
            flaw("X:2", Severity::Unknown),
        ],
    };
    let withdrawal = Withdrawal {
        format: 1,
        digest,
        reason: "does not boot".to_owned(),
        at,
    };
    corpus.put("documents", "channel", &channel.to_bytes().unwrap());
    corpus.put("documents", "advisory", &advisory.to_bytes().unwrap());
    corpus.put("documents", "withdrawal", &withdrawal.to_bytes().unwrap());
}

/// A delta of two segments and a bit, the last packed again, and the document that names it.
fn delta(corpus: &Corpus, digest: Digest) {
    let base = noise(11, 1000);
    let stored = packed(&[&base[..], b"and more"].concat(), &base, 9);
    let frame = SegmentFrame {
        stored_bytes: stored.len() as u32,
        digest: Digest::of(&stored),
        references: vec![Reference::to(0, 600), Reference::to(600, 400)],
        runs: Vec::new(),
    };
    let sources = [
        Source::Copy { at: 4096 },
        Source::Frame(frame.clone()),
        Source::Frame(SegmentFrame {
            references: vec![Reference {
                packed: Some(SegmentId::of(b"packed")),
                ..Reference::to(5000, 300)
            }],
            runs: [(100, 2000), (0, 3000), (7, 0)]
                .map(|(verbatim, packed)| Run { verbatim, packed })
                .to_vec(),
            ..frame
        }),
    ];
    let segments = sources.into_iter().enumerate().map(|(place, source)| Segment {
        id: SegmentId::of(&[place as u8]),
        bytes: [SEGMENT_BYTES, SEGMENT_BYTES, 1000][place],
        source,
    });
    let header = DeltaHeader {
        artifact: Digest::of(b"new"),
        size: 2 * u64::from(SEGMENT_BYTES) + 1000,
        base: Digest::of(b"old"),
        base_size: 3 << 20,
        packing: Some(Packing {
            level: 9,
            zstd_version: 10507,
        }),
    };
    let segments: Vec<Segment> = segments.collect();
    let head = DeltaHead::new(&header, &segments).unwrap();
    let bytes = head.bytes();
    corpus.put("delta", "head", bytes);
    corpus.put("delta", "segments", &segments_to_bytes(&segments));
    let document = Delta {
        format: 1,
        from: Digest::of(b"from"),
        to: digest,
        artifacts: vec![DeltaArtifact {
            name: "rootfs".parse().unwrap(),
            base: header.base,
            base_size: header.base_size,
            head: IndexRef {
                digest: Digest::of(bytes),
                size: bytes.len() as u64,
            },
            frames_bytes: head.frames_bytes(),
        }],
    };
    corpus.put("documents", "delta", &document.to_bytes().unwrap());
}

fn packed(content: &[u8], before: &[u8], level: i32) -> Vec<u8> {
    encode_frame(&mut CCtx::create(), content, before, level).unwrap()
}

/// Frames as an honest release has them, and those of an attacker or of a signer who was deceived.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let (text, before) = (b"a few words and a few more words\n".repeat(20), noise(4, 2_000));
    let moved = [&before[500..1_500], b"and more"].concat();
    let good = packed(&text, b"", 3);
    let input = |content: usize, before: &[u8], stored: &[u8]| {
        FrameInput {
            content_bytes: content as u32,
            before,
            stored,
        }
        .join()
    };
    let dictionary = [&[0x37, 0xA4, 0x30, 0xEC], before.as_slice()].concat();
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0], good.as_slice()].concat();
    vec![
        ("level-1", input(text.len(), b"", &packed(&text, b"", 1))),
        ("level-19", input(text.len(), b"", &packed(&text, b"", 19))),
        ("noise", input(600, b"", &packed(&noise(5, 600), b"", 3))),
        (
            "on-a-ground",
            input(moved.len(), &before, &packed(&moved, &before, 3)),
        ),
        (
            "like-a-dictionary",
            input(moved.len(), &dictionary, &packed(&moved, &dictionary, 3)),
        ),
        (
            "wrong-base",
            input(moved.len(), &noise(6, 2_000), &packed(&moved, &before, 3)),
        ),
        ("truncated", input(text.len(), b"", &good[..good.len() / 2])),
        (
            "second",
            input(text.len(), b"", &[good.clone(), packed(b"more", b"", 3)].concat()),
        ),
        ("skippable", input(text.len(), b"", &skippable)),
        ("bomb", input(1_000, b"", &packed(&vec![0; 8 << 20], b"", 19))),
        (
            "most",
            input(512 << 10, b"", &packed(&vec![7; 512 << 10], b"", 3)),
        ),
        (
            "silent",
            input(text.len(), b"", &zstd::stream::encode_all(&text[..], 3).unwrap()),
        ),
        ("empty", input(0, b"", &packed(b"", b"", 3))),
    ]
}

/// A page of few small chunks, which a reader takes as well as long ones.
fn rebuild(corpus: &Corpus) {
    let before = noise(7, 700);
    let pieces = [
        noise(8, 300),
        b"words and words ".repeat(12),
        before[..400].to_vec(),
    ];
    let mut list = ChunkList::default();
    let zeros = Chunk {
        length: 5_000,
        id: ChunkId::ZEROS,
    };
    let chunk = |bytes: &[u8]| Chunk {
        length: bytes.len() as u32,
        id: ChunkId::of(bytes),
    };
    for next in [
        zeros,
        chunk(&pieces[0]),
        chunk(&pieces[1]),
        zeros,
        chunk(&pieces[2]),
    ] {
        list.push(next);
    }
    let contents = [pieces[..2].concat(), pieces[2].clone()];
    let ground = [before.as_slice(), &vec![0; 5_000], &contents[0], &vec![0; 5_000]].concat();
    let stored = [
        packed(&contents[0], &ground[..5_700], 3),
        packed(&contents[1], &ground, 3),
    ];
    let frame = |at: usize, first_chunk, chunks| Frame {
        first_chunk,
        chunks,
        ..signed_by_mistake(&stored[at], contents[at].len() as u32)
    };
    let page = Page::new(list, vec![frame(0, 1, 2), frame(1, 4, 1)]).unwrap();
    let (page, stored) = (page.to_bytes(), stored.concat());
    for (name, window_bytes, stored) in [
        ("whole", 1 << 20, stored.as_slice()),
        ("no-window", 0, stored.as_slice()),
        ("cut", 1 << 20, &stored[..stored.len() - 9]),
    ] {
        let input = RebuildInput {
            window_bytes,
            page: &page,
            before: &before,
            stored,
        };
        corpus.put("rebuild", name, &input.join());
    }
}

fn verity(corpus: &Corpus) {
    for (name, algorithm, data_blocks, salt) in [
        (
            "sha256",
            HashAlgorithm::Sha256,
            262_144,
            Salt::new(vec![7; 32]).unwrap(),
        ),
        ("sha512", HashAlgorithm::Sha512, 1, Salt::none()),
    ] {
        let (data_block, hash_block) = (BlockSize::DEFAULT, BlockSize::new(1024).unwrap());
        let parameters = Parameters {
            algorithm,
            data_block,
            hash_block,
            data_blocks,
            salt,
        };
        let uuid = parameters.derived_uuid(&Digest::of(b"image"));
        corpus.put(
            "verity_superblock",
            name,
            &Superblock { uuid, parameters }.to_bytes(),
        );
    }
    corpus.put(
        "uki",
        "one",
        &pe(&[(b".osrel\0\0", b"ID=harbor"), (b".cmdline", b"quiet roothash=ab")]),
    );
    corpus.put(
        "uki",
        "profiles",
        &pe(&[(b".cmdline", b"quiet\0x"), (b".cmdline", b"debug")]),
    );
    corpus.put("uki", "none", &pe(&[(b".linux\0\0", b"MZ")]));
}

/// A PE file of these sections, packed densely: the shortest that a UKI can be.
fn pe(sections: &[(&[u8; 8], &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 0x40];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x40;
    file.extend_from_slice(b"PE\0\0\x64\x86");
    file.extend_from_slice(&(sections.len() as u16).to_le_bytes());
    file.extend_from_slice(&[0; 16]);
    let mut at = file.len() + sections.len() * 40;
    for (name, bytes) in sections {
        file.extend_from_slice(*name);
        for value in [bytes.len(), 0x1000, bytes.len(), at, 0, 0, 0, 0] {
            file.extend_from_slice(&(value as u32).to_le_bytes());
        }
        at += bytes.len();
    }
    for (_, bytes) in sections {
        file.extend_from_slice(bytes);
    }
    file
}

fn names(corpus: &Corpus, digest: Digest) {
    let channel = TargetKind::Channel("stable-2.x".parse().unwrap()).target_name();
    let manifest = TargetKind::Manifest(digest).target_name();
    corpus.put(
        "names",
        "digests",
        format!("{digest}\n{}\n{manifest}", digest.hex()).as_bytes(),
    );
    corpus.put("names", "names", format!("rootfs\n{channel}\nx86_64").as_bytes());
    corpus.put("names", "versions", b".0~rc1\n.0\n.0-1^git.2");
    corpus.put("names", "equal", b".02\n.2\n_2");
}
