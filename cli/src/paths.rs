//! Where things are kept: the platform's own folders, `REGATTA_HOME`, or what a flag says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use directories::ProjectDirs;

/// Flags about folders, shared by the commands.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Folders {
    /// Folder for models, database and configuration [default: the platform's own data folder]
    #[arg(long, env = "REGATTA_HOME", value_name = "DIR", global = true)]
    home: Option<PathBuf>,
    /// Folder of the weights [default: models in the home folder]
    #[arg(long, env = "REGATTA_MODELS", value_name = "DIR", global = true)]
    model_root: Option<PathBuf>,
    /// Further folders with regatta-worker programs, beside the one this program is in
    #[arg(long = "worker-dir", env = "REGATTA_WORKER_DIR", value_name = "DIR", global = true)]
    worker_dirs: Vec<PathBuf>,
}

impl Folders {
    /// The home folder.
    pub(crate) fn home(&self) -> anyhow::Result<PathBuf> {
        if let Some(home) = &self.home {
            return Ok(home.clone());
        }
        let dirs = ProjectDirs::from("", "", "regatta")
            .context("no home folder is known for this user: set REGATTA_HOME or give --home DIR")?;
        Ok(dirs.data_dir().to_owned())
    }

    /// The root of all weights.
    pub(crate) fn model_root(&self) -> anyhow::Result<PathBuf> {
        self.model_root.clone().map_or_else(|| Ok(self.home()?.join("models")), Ok)
    }

    /// The database: what the flag says, or the one in the home folder.
    pub(crate) fn database(&self, flag: Option<&Path>) -> anyhow::Result<PathBuf> {
        flag.map_or_else(|| Ok(self.home()?.join("regatta.sqlite")), |path| Ok(path.to_owned()))
    }

    /// Folders to look for worker programs in: this program's own first.
    pub(crate) fn worker_dirs(&self) -> Vec<PathBuf> {
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        beside.into_iter().chain(self.worker_dirs.iter().cloned()).collect()
    }
}

/// Makes the folder that a file is to be in.
pub(crate) fn make_parent(file: &Path) -> anyhow::Result<()> {
    let Some(parent) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))
}

/// The spool of the agent inside `regatta run`: beside its database, because what is unacknowledged there belongs to
/// that database and no other.
pub(crate) fn local_spool(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".spool");
    database.with_file_name(name)
}
