//! A writer of ustar archives (POSIX.1-1988, as `tar` reads them), so that a partition image is
//! something a person can look into. It writes regular files only, and always the same bytes for the
//! same files.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// Writes one archive into `out`.
pub struct UstarWriter<W: Write> {
    out: W,
    written_bytes: u64,
}

impl<W: Write> UstarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written_bytes: 0,
        }
    }

    /// Bytes that a file of this length takes in an archive.
    #[must_use]
    pub fn taken(len: u64) -> u64 {
        let block = BLOCK as u64;
        block + len.div_ceil(block) * block
    }

    /// Bytes so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Adds a file. Returns false, and writes nothing, if its path does not fit a ustar header.
    ///
    /// # Errors
    /// Those of the writer underneath.
    pub fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> io::Result<bool> {
        let Some(header) = header(path, executable, content.len() as u64) else {
            return Ok(false);
        };
        self.out.write_all(&header)?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        self.out.write_all(&[0; BLOCK][..padding])?;
        self.written_bytes += Self::taken(content.len() as u64);
        Ok(true)
    }

    /// Ends the archive: two empty blocks.
    ///
    /// # Errors
    /// Those of the writer underneath.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The file of this path at the start of an archive: the content of its first entry, if it has that name.
#[must_use]
pub fn first_entry<'a>(archive: &'a [u8], path: &str) -> Option<&'a [u8]> {
    let header = archive.get(..BLOCK)?;
    let name = header.get(..100)?.split(|b| *b == 0).next()?;
    let digits = std::str::from_utf8(header.get(124..135)?).ok()?;
    let len = usize::from_str_radix(digits.trim(), 8).ok()?;
    (name == path.as_bytes()).then(|| archive.get(BLOCK..BLOCK.checked_add(len)?))?
}

fn header(path: &str, executable: bool, len: u64) -> Option<[u8; BLOCK]> {
    let (prefix, name) = if path.len() <= 100 {
        ("", path)
    } else {
        // The longest prefix that leaves a name that fits.
        let cut = path
            .match_indices('/')
            .map(|(at, _)| at)
            .find(|at| path.len() - at - 1 <= 100)?;
        (&path[..cut], &path[cut + 1..])
    };
    if prefix.len() > 155 || name.is_empty() {
        return None;
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if executable { "0000755\0" } else { "0000644\0" });
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{len:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    put(345, prefix);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}
