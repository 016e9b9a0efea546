//! A file of a folder: the same bounds and the same counting as over the network.

use std::io::{self, SeekFrom};

use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::error::{Ended, FetchError};
use super::mirrors::{Ranges, Source};
use super::transfer::{Transfer, Want};

/// How much is read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Reads what `transfer` still wants of the file.
pub(super) async fn read(source: &Source, transfer: &mut Transfer<'_>) -> Result<(), Ended> {
    let url = || source.url.to_string();
    let path = source
        .url
        .to_file_path()
        .map_err(|()| Ended::ForGood(FetchError::Scheme { url: url() }))?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ended::ForGood(FetchError::NotFound { url: url() }),
        io::ErrorKind::PermissionDenied => Ended::ForGood(FetchError::Refused {
            url: url(),
            detail: error.to_string(),
        }),
        _ => Ended::MayPass(error.to_string()),
    };
    transfer.ask(source.mirror);
    transfer.counts_request();
    let metadata = transfer.pace.within(tokio::fs::metadata(&path)).await?;
    let metadata = metadata.map_err(failed)?;
    // A pipe or a device would never end.
    if !metadata.is_file() {
        let detail = "it is no regular file".to_owned();
        return Err(Ended::ForGood(FetchError::Refused { url: url(), detail }));
    }
    if let Want::Range { end, .. } = transfer.want {
        transfer.ranges = Some(Ranges::Served);
        if metadata.len() < end {
            return Err(transfer.too_short(source, Some(metadata.len())));
        }
    }
    let first = transfer.want.start() + transfer.held.len();
    let opened = async {
        let mut file = tokio::fs::File::open(&path).await?;
        file.seek(SeekFrom::Start(first)).await?;
        Ok::<_, io::Error>(file)
    };
    let mut file = transfer.pace.within(opened).await?.map_err(failed)?;
    transfer.held.begin_answer(source.mirror, None);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let left = transfer.want.most_bytes().saturating_sub(transfer.held.len());
        // One byte more than may be there tells a file that is too long.
        let most = match transfer.want {
            Want::Whole { .. } => left.saturating_add(1),
            Want::Range { .. } if left == 0 => return Ok(()),
            Want::Range { .. } => left,
        };
        let most = usize::try_from(most).map_or(PIECE_BYTES, |most| most.min(PIECE_BYTES));
        let read = transfer.pace.within(file.read(&mut piece[..most])).await?;
        let read = read.map_err(failed)?;
        match transfer.want {
            Want::Whole { .. } if read == 0 => return Ok(()),
            Want::Range { .. } if read == 0 => return Err(transfer.too_short(source, None)),
            Want::Whole { .. } | Want::Range { .. } => {}
        }
        if read as u64 > left {
            return Err(transfer.want.too_long(source));
        }
        transfer.keep(&piece[..read]);
        transfer.received(read as u64).await;
    }
}
