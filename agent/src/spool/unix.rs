//! Durability of folders on Unix.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
