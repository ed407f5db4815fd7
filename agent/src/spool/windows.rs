//! Durability of folders on Windows: NTFS journals names by itself, and a folder can't be opened as a file.

use std::io;
use std::path::Path;

/// Nothing to do.
#[expect(clippy::unnecessary_wraps, reason = "the same function can fail on other platforms")]
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
