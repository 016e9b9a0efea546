//! Signing keys and the first root. Private keys are Ed25519 in PKCS#8, one file each, readable by
//! their owner alone, never overwritten and never printed.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use jiff::Timestamp;
use serde::Serialize;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{Role, RoleKeys, RoleType, Root, Signature, Signed};
use tough::sign::{Sign, parse_keypair};

use crate::error::ReleaseError;

/// The version of the TUF specification that is written.
pub(crate) const SPEC_VERSION: &str = "1.0.0";
/// The longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 16 * 1024;
/// The most keys of one role.
pub const MAX_KEYS_PER_ROLE: u32 = 16;
/// The ending of a key file.
const KEY_ENDING: &str = "pk8";

/// Which keys to make.
#[derive(Debug, Clone)]
pub struct KeygenRequest {
    /// The folder for keys and root; made if need be.
    pub out: PathBuf,
    /// Keys each for root and targets, 1 to [`MAX_KEYS_PER_ROLE`]. Snapshot and timestamp, which sign
    /// on a machine that is always on, have one each.
    pub keys: u32,
    /// How many of them must sign.
    pub threshold: u32,
    /// How long the first root lives.
    pub root_lifetime: Duration,
    /// The time it is made at.
    pub now: Timestamp,
}

/// Keys that were made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GeneratedKeys {
    /// The first root, to be shipped in every node's image.
    pub root: PathBuf,
    /// The private keys.
    pub keys: Vec<PathBuf>,
    /// When the root expires.
    pub root_expires: Timestamp,
}

/// Makes keys for all four roles and the first root, signed by its own keys.
///
/// # Errors
/// A threshold that makes no sense, keys already there, or a folder that does not work.
pub async fn generate(request: KeygenRequest) -> Result<GeneratedKeys, ReleaseError> {
    let (keys, threshold) = (request.keys, request.threshold);
    if threshold == 0 || threshold > keys || keys > MAX_KEYS_PER_ROLE {
        let text = format!(
            "{threshold} of {keys} keys makes no sense: write a threshold of at least 1, not above the number of keys, and at most {MAX_KEYS_PER_ROLE} keys"
        );
        return Err(ReleaseError::Request(text));
    }
    let dir = &request.out;
    fs::create_dir_all(dir).map_err(ReleaseError::io("make the folder", dir))?;
    for entry in fs::read_dir(dir).map_err(ReleaseError::io("read the folder", dir))? {
        let path = entry.map_err(ReleaseError::io("read the folder", dir))?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == KEY_ENDING || ending == "json")
        {
            return Err(ReleaseError::Exists { path });
        }
    }
    let mut files = Vec::new();
    let mut roles = Vec::new();
    for (role, count, threshold) in [
        (RoleType::Root, keys, threshold),
        (RoleType::Targets, keys, threshold),
        (RoleType::Snapshot, 1, 1),
        (RoleType::Timestamp, 1, 1),
    ] {
        let mut paths = Vec::new();
        for number in 1..=count {
            let path = dir.join(format!("{role}-{number}.{KEY_ENDING}"));
            write_new_key(&path)?;
            paths.push(path);
        }
        roles.push((role, threshold, paths.clone()));
        files.extend(paths);
    }
    let ring = KeyRing::load(dir)?;
    let root_expires = whole_seconds(request.now, request.root_lifetime)?;
    let root = new_root(&ring, &roles, NonZeroU64::MIN, root_expires)?;
    let signed = ring.sign(root.clone(), &[&root]).await?;
    let path = dir.join("1.root.json");
    write_new(&path, &to_json(&signed)?, 0o644)?;
    Ok(GeneratedKeys {
        root: path,
        keys: files,
        root_expires,
    })
}

/// A root that gives each role the keys in those files.
pub(crate) fn new_root(
    ring: &KeyRing,
    roles: &[(RoleType, u32, Vec<PathBuf>)],
    version: NonZeroU64,
    expires: Timestamp,
) -> Result<Root, ReleaseError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.to_owned(),
        consistent_snapshot: true,
        version,
        expires,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    for (role, threshold, paths) in roles {
        let mut keyids = Vec::new();
        for key in ring.keys.iter().filter(|key| paths.contains(&key.path)) {
            root.keys.insert(key.id.clone(), key.signer.tuf_key());
            keyids.push(key.id.clone());
        }
        let threshold = NonZeroU64::new(u64::from(*threshold)).unwrap_or(NonZeroU64::MIN);
        root.roles.insert(
            *role,
            RoleKeys {
                keyids,
                threshold,
                _extra: HashMap::new(),
            },
        );
    }
    Ok(root)
}

fn write_new_key(path: &Path) -> Result<(), ReleaseError> {
    let unusable = |_| ReleaseError::Key {
        path: path.to_path_buf(),
        detail: "no random numbers to make it from".to_owned(),
    };
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unusable)?;
    write_new(path, document.as_ref(), 0o600)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ReleaseError> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(mode);
    let mut file = match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(ReleaseError::Exists {
                path: path.to_path_buf(),
            });
        }
        opened => opened.map_err(ReleaseError::io("make", path))?,
    };
    file.write_all(bytes).map_err(ReleaseError::io("write", path))?;
    file.sync_all().map_err(ReleaseError::io("write", path))
}

/// `now` plus `lifetime`, without fractions of a second.
pub(crate) fn whole_seconds(now: Timestamp, lifetime: Duration) -> Result<Timestamp, ReleaseError> {
    let too_long = || ReleaseError::Request(format!("a lifetime of {lifetime:?} is too long"));
    let seconds = i64::try_from(lifetime.as_secs()).map_err(|_| too_long())?;
    let end = now.as_second().checked_add(seconds).ok_or_else(too_long)?;
    Timestamp::from_second(end).map_err(|_| too_long())
}

/// The bytes of a signed file.
pub(crate) fn to_json<T: Serialize>(signed: &T) -> Result<Vec<u8>, ReleaseError> {
    serde_json::to_vec(signed).map_err(|error| ReleaseError::Request(format!("no JSON form: {error}")))
}

/// All keys of a folder.
pub(crate) struct KeyRing {
    dir: PathBuf,
    keys: Vec<RingKey>,
}

struct RingKey {
    path: PathBuf,
    id: Decoded<Hex>,
    signer: Box<dyn Sign>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys of {})", self.keys.len(), self.dir.display())
    }
}

impl KeyRing {
    /// Reads every `*.pk8` in `dir` (Ed25519 or ECDSA P-256 in PKCS#8). A folder without keys is
    /// empty, not an error: what misses them will say which.
    pub fn load(dir: &Path) -> Result<Self, ReleaseError> {
        let mut keys = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(ReleaseError::io("read the folder of keys", dir))? {
            let path = entry
                .map_err(ReleaseError::io("read the folder of keys", dir))?
                .path();
            if path.extension().is_some_and(|ending| ending == KEY_ENDING) {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let unusable = |detail: String| ReleaseError::Key {
                path: path.clone(),
                detail,
            };
            let mut bytes = Vec::new();
            let file = File::open(&path).map_err(ReleaseError::io("read the key", &path))?;
            file.take(MAX_KEY_BYTES)
                .read_to_end(&mut bytes)
                .map_err(ReleaseError::io("read the key", &path))?;
            let signer: Box<dyn Sign> =
                Box::new(parse_keypair(&bytes).map_err(|error| unusable(error.to_string()))?);
            let id = signer
                .tuf_key()
                .key_id()
                .map_err(|error| unusable(error.to_string()))?;
            keys.push(RingKey { path, id, signer });
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            keys,
        })
    }

    /// The files of the keys.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.keys.iter().map(|key| key.path.as_path())
    }

    /// Takes over the keys of another folder.
    pub fn join(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    /// Signs `role` with every key at hand that one of `roots` names for it, each key once, so that
    /// readers who trust any of the roots accept it.
    pub async fn sign<T: Role + Serialize>(
        &self,
        role: T,
        roots: &[&Root],
    ) -> Result<Signed<T>, ReleaseError> {
        let unusable = |path: &Path, detail: String| ReleaseError::Key {
            path: path.to_path_buf(),
            detail,
        };
        let data = role
            .canonical_form()
            .map_err(|error| ReleaseError::Request(error.to_string()))?;
        let named = |id: &Decoded<Hex>| {
            roots
                .iter()
                .filter_map(|root| root.roles.get(&T::TYPE))
                .any(|keys| keys.keyids.contains(id))
        };
        let mut done = BTreeSet::new();
        let mut signed = Signed {
            signed: role,
            signatures: Vec::new(),
        };
        for key in &self.keys {
            if named(&key.id) && done.insert(key.id.to_vec()) {
                let signature = key.signer.sign(&data, &SystemRandom::new()).await;
                let sig = signature
                    .map_err(|error| unusable(&key.path, error.to_string()))?
                    .into();
                signed.signatures.push(Signature {
                    keyid: key.id.clone(),
                    sig,
                });
            }
        }
        for root in roots {
            if root.verify_role(&signed).is_err() {
                return Err(self.missing(T::TYPE, root));
            }
        }
        Ok(signed)
    }

    fn missing(&self, role: RoleType, root: &Root) -> ReleaseError {
        let keys = root.roles.get(&role);
        let wanted: &[Decoded<Hex>] = keys.map_or(&[], |keys| &keys.keyids);
        let found = wanted
            .iter()
            .filter(|id| self.keys.iter().any(|key| key.id == **id))
            .count();
        ReleaseError::KeysMissing {
            role: format!("{role}.json (root version {})", root.version),
            dir: self.dir.clone(),
            needed: keys.map_or(0, |keys| keys.threshold.get()),
            found,
            wanted: wanted
                .iter()
                .map(|id| hex::encode(&id[..6]))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}
