//! What a program writes to standard error: the end of it is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::text;

/// How much is kept, in bytes.
const KEPT: usize = 64 * 1024;

/// The end of what was written so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads to the end. Stops early only if it is dropped.
    pub(super) async fn fill(self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&buffer[..read]);
            let surplus = kept.len().saturating_sub(KEPT);
            kept.drain(..surplus);
        }
    }

    /// What is kept, without control characters.
    pub(super) fn text(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::clean(&String::from_utf8_lossy(kept.make_contiguous()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_64_kib_are_kept() {
        let mut written = vec![b'a'; KEPT];
        written.extend(b"\x1b[31mlast words");
        let tail = Tail::default();
        tail.clone().fill(written.as_slice()).await;
        let text = tail.text();
        assert!(text.ends_with("alast words"), "{}", &text[text.len() - 20..]);
        assert!(text.len() <= KEPT);
    }
}
