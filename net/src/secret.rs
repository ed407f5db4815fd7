//! Files with secrets: read only when no other user of the machine can read them too.

use std::io;
use std::path::{Path, PathBuf};

use regatta_core::token::{NotAToken, Token};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{what} {}: {source}", path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others could have read it.
    #[error(
        "{what} {}: everyone on this machine may read or change it (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It does not hold what it should.
    #[error("{what} {}: {reason}", path.display())]
    Content {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong; nothing of the content.
        reason: String,
    },
}

impl FileError {
    pub(crate) fn content(what: &'static str, path: &Path, reason: impl Into<String>) -> Self {
        Self::Content { what, path: path.to_owned(), reason: reason.into() }
    }
}

/// Reads a file that anyone may see.
pub fn read_public(path: &Path, what: &'static str) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { what, path: path.to_owned(), source };
    let length = path.metadata().map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(FileError::content(what, path, format!("has {length} bytes, at most {MAX_FILE} are read")));
    }
    std::fs::read(path).map_err(failed)
}

/// Reads a file that only its owner, and perhaps a group, may see.
pub fn read_secret(path: &Path, what: &'static str) -> Result<Vec<u8>, FileError> {
    if let Some(mode) = exposed(path) {
        return Err(FileError::Exposed { what, path: path.to_owned(), mode });
    }
    read_public(path, what)
}

/// The file's permissions, where they let everyone in.
#[cfg(unix)]
fn exposed(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = path.metadata().ok()?.permissions().mode() & 0o7777;
    (mode & 0o007 != 0).then_some(mode)
}

/// Elsewhere a file's rights are inherited from its folder, which belongs to one user by default.
#[cfg(not(unix))]
fn exposed(_path: &Path) -> Option<u32> {
    None
}

/// The token in a file, which may end in a line break.
pub fn read_token(path: &Path) -> Result<Token, FileError> {
    const WHAT: &str = "token file";
    let bytes = read_secret(path, WHAT)?;
    let text = String::from_utf8(bytes).map_err(|_| FileError::content(WHAT, path, NotAToken::Form.to_string()))?;
    text.trim().parse().map_err(|error: NotAToken| FileError::content(WHAT, path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_a_broken_one_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token::new([1; 8], [2; 32]);
        write(&path, &format!("{}\n", token.expose()));
        assert_eq!(read_token(&path).unwrap(), token);
        write(&path, &token.expose()[..50]);
        let message = read_token(&path).unwrap_err().to_string();
        assert!(message.contains("50 characters") && !message.contains("0202"), "{message}");
        let message = read_token(&folder.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("token file") && message.contains("none"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_everyone_may_read_is_refused_with_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        write(&path, Token::new([1; 8], [2; 32]).expose());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let message = read_token(&path).unwrap_err().to_string();
        assert!(message.contains("mode 0644") && message.contains("chmod 600"), "{message}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        read_token(&path).unwrap();
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}
