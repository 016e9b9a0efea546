//! Frames that were signed by mistake: whatever is stored, the page says that it has that digest and that
//! length. A frame that is accepted has just the bytes that the page says, and only alone.
#![no_main]

use drydock_fuzz::{FrameInput, signed_by_mistake};
use drydock_images::chunk::{Decoder, FrameError, MAX_FRAME_BYTES, MAX_FRAME_CONTENT_BYTES, encode_frame};
use libfuzzer_sys::fuzz_target;
use zstd::zstd_safe::CCtx;

fuzz_target!(|data: &[u8]| {
    let FrameInput {
        content_bytes,
        before,
        stored,
    } = FrameInput::split(data);
    let mut decoder = Decoder::new();
    let content = match decoder.decode(stored, &signed_by_mistake(stored, content_bytes), before) {
        Ok(content) => content.to_vec(),
        Err(FrameError::TooLarge { .. }) => {
            return assert!(
                stored.len() > MAX_FRAME_BYTES as usize || content_bytes > MAX_FRAME_CONTENT_BYTES
            );
        }
        Err(FrameError::Length { .. } | FrameError::Digest { .. } | FrameError::Chunk { .. }) => {
            unreachable!("the page says what is stored")
        }
        Err(
            FrameError::NoFrame
            | FrameError::CutOff
            | FrameError::Trailing { .. }
            | FrameError::ContentSize { .. }
            | FrameError::Broken(_),
        ) => return,
    };
    assert_eq!(content.len(), content_bytes as usize);
    assert!(content_bytes <= MAX_FRAME_CONTENT_BYTES);

    // The same decoder, after anything else, gives the same.
    let mut refused = |stored: &[u8], content_bytes| {
        decoder
            .decode(stored, &signed_by_mistake(stored, content_bytes), before)
            .is_err()
    };
    assert!(refused(&[stored, b"x"].concat(), content_bytes), "a byte follows");
    assert!(
        refused(&[stored, stored].concat(), content_bytes),
        "a second frame follows"
    );
    assert!(
        refused(&stored[..stored.len() - 1], content_bytes),
        "it is cut off"
    );
    assert!(refused(stored, content_bytes + 1), "it holds fewer");
    let again = decoder.decode(stored, &signed_by_mistake(stored, content_bytes), before);
    assert_eq!(again, Ok(content.as_slice()));

    let packed = encode_frame(&mut CCtx::create(), &content, before, 1).expect("zstd packs anything");
    let unpacked = decoder.decode(&packed, &signed_by_mistake(&packed, content_bytes), before);
    assert_eq!(unpacked, Ok(content.as_slice()));
});
