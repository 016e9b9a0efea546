//! The kernel command lines in a unified kernel image: the `.cmdline` sections of a PE file (UAPI.5; PE
//! Format, "COFF File Header" and "Section Table"). Reads the headers and those sections only, within
//! bounds, and believes no other field.

use std::io::{self, Read, Seek, SeekFrom};

/// The first two bytes of a PE file.
pub(super) const MAGIC: [u8; 2] = *b"MZ";
/// The most sections; Windows loads 96, a UKI with many profiles and device trees has more.
const MAX_SECTIONS: u16 = 1024;
/// The most bytes of all `.cmdline` sections of a UKI; Linux takes 2,048 to 4,096 of one.
pub const MAX_CMDLINE_BYTES: u64 = 1 << 20;

const PE_POINTER_AT: u64 = 0x3c;
const COFF_HEADER_BYTES: usize = 24;
const SECTION_HEADER_BYTES: usize = 40;

/// Why a file is no UKI with a command line.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its headers or sections break a bound, or are not there.
    #[error("it begins like a PE file, but {0}")]
    Shape(&'static str),
    /// It is a PE file of another use.
    #[error(
        "it is a PE file without a .cmdline section, so its command line comes from elsewhere (name the artifact that carries it)"
    )]
    NoCmdline,
}

/// Every `.cmdline` section up to its first zero byte, in order: the common one, then those of profiles.
/// At least one.
///
/// # Errors
/// Not a PE file within the bounds, or one without such a section.
pub fn cmdlines(file: &mut (impl Read + Seek)) -> Result<Vec<Vec<u8>>, UkiError> {
    let mut pointer = [0; 4];
    read_at(file, PE_POINTER_AT, &mut pointer)?;
    let pe_at = u64::from(u32::from_le_bytes(pointer));
    let mut coff = [0; COFF_HEADER_BYTES];
    read_at(file, pe_at, &mut coff)?;
    if coff[..4] != *b"PE\0\0" {
        return Err(UkiError::Shape("has no PE signature"));
    }
    let sections = u16::from_le_bytes([coff[6], coff[7]]);
    if sections > MAX_SECTIONS {
        return Err(UkiError::Shape("has more than 1024 sections"));
    }
    let optional_header_bytes = u64::from(u16::from_le_bytes([coff[20], coff[21]]));
    let table_at = pe_at + COFF_HEADER_BYTES as u64 + optional_header_bytes;
    let mut table = vec![0; usize::from(sections) * SECTION_HEADER_BYTES];
    read_at(file, table_at, &mut table)?;
    let mut found = Vec::new();
    let mut left_bytes = MAX_CMDLINE_BYTES;
    for section in table.chunks_exact(SECTION_HEADER_BYTES) {
        // Exactly the eight bytes that a name may have here.
        if section[..8] != *b".cmdline" {
            continue;
        }
        let (in_memory, in_file) = (u32_at(section, 8), u32_at(section, 16));
        // The file's part is padded to the file alignment; the rest of a longer one is zeros in memory.
        let length_bytes = u64::from(in_memory.min(in_file));
        left_bytes = left_bytes
            .checked_sub(length_bytes)
            .ok_or(UkiError::Shape("its .cmdline sections have more than 1 MiB"))?;
        let mut text = vec![0; length_bytes as usize];
        read_at(file, u64::from(u32_at(section, 20)), &mut text)?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        found.push(text);
    }
    if found.is_empty() {
        return Err(UkiError::NoCmdline);
    }
    Ok(found)
}

fn read_at(file: &mut (impl Read + Seek), at: u64, bytes: &mut [u8]) -> Result<(), UkiError> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => UkiError::Shape("it ends before its headers or sections do"),
        _ => UkiError::Io(error),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A PE file of these sections, each padded to 512 bytes: what ukify writes, without code.
    pub(in crate::verity) fn pe(sections: &[(&[u8; 8], &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 0x40];
        file[..2].copy_from_slice(&MAGIC);
        file[0x3c] = 0x40;
        file.extend_from_slice(b"PE\0\0\x64\x86");
        file.extend_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        file.extend_from_slice(&[8, 0, 0, 0]);
        file.extend_from_slice(&[0xff; 8]);
        let mut data = Vec::new();
        let data_at = (file.len() + sections.len() * SECTION_HEADER_BYTES).next_multiple_of(512);
        for (name, bytes) in sections {
            let length = u32::try_from(bytes.len()).unwrap();
            let at = u32::try_from(data_at + data.len()).unwrap();
            file.extend_from_slice(*name);
            for value in [length, 0x1000, length.next_multiple_of(512), at, 0, 0, 0, 0] {
                file.extend_from_slice(&value.to_le_bytes());
            }
            data.extend_from_slice(bytes);
            data.resize(data.len().next_multiple_of(512), 0);
        }
        file.resize(data_at, 0);
        file.extend_from_slice(&data);
        file
    }

    fn read(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        cmdlines(&mut Cursor::new(file)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_command_line_is_found_and_ends_at_its_zero() {
        let file = pe(&[
            (b".osrel\0\0", b"ID=harbor"),
            (b".cmdline", b"quiet\0roothash=old"),
            (b".linux\0\0", b"MZ roothash=11"),
            (b".cmdline", b"debug"),
        ]);
        assert_eq!(read(&file).unwrap(), [b"quiet".to_vec(), b"debug".to_vec()]);
    }

    #[test]
    fn what_is_no_uki_is_refused() {
        let good = pe(&[(b".cmdline", b"quiet")]);
        for (bytes, words) in [
            (pe(&[(b".linux\0\0", b"kernel")]), "without a .cmdline section"),
            (b"MZ".to_vec(), "it ends before"),
            (vec![0; 4096], "has no PE signature"),
            (good[..good.len() - 512].to_vec(), "it ends before"),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let mut many = good.clone();
        many[0x46..0x48].copy_from_slice(&[0xff, 0xff]);
        assert!(read(&many).unwrap_err().contains("more than 1024 sections"));
        let mut long = good;
        long[0x68..0x6c].copy_from_slice(&[0xff; 4]);
        long[0x70..0x74].copy_from_slice(&[0xff; 4]);
        assert!(read(&long).unwrap_err().contains("more than 1 MiB"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(changes in proptest::collection::vec((0usize..0x90, any::<u8>()), 0..6)) {
            let mut file = pe(&[(b".cmdline", b"quiet"), (b".linux\0\0", b"kernel")]);
            for (at, byte) in changes {
                file[at] = byte;
            }
            let _ = read(&file);
        }
    }
}
