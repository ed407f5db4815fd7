//! Where runs are looked for: in a database file here, or at a coordinator.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::Args;
use regatta_proto::pb;
use regatta_store::{Reader, Store};

use crate::connect::{ConnectArgs, RunClient};
use crate::exit::BadInput;
use crate::paths::Folders;
use crate::rpc;

/// Which database.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The database file [default: regatta.sqlite in the home folder]
    #[arg(long, env = "REGATTA_DB", value_name = "FILE")]
    pub db: Option<PathBuf>,
}

/// Flags about where runs are.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Where runs are.
pub(crate) enum Source {
    /// In this file.
    Database(PathBuf),
    /// At a coordinator.
    Coordinator(RunClient),
}

/// Who has said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Flag,
    Environment,
}

impl SourceArgs {
    /// A flag goes before the environment; without either it is the database of this machine.
    pub(crate) async fn source(&self, folders: &Folders) -> anyhow::Result<Source> {
        let coordinator = self.connect.named().map(|url| said(url.as_ref(), "REGATTA_COORDINATOR"));
        let database = self.database.db.as_ref().map(|path| said(path.as_os_str(), "REGATTA_DB"));
        if is_elsewhere(coordinator, database)? {
            Ok(Source::Coordinator(self.connect.client().await?))
        } else {
            Ok(Source::Database(folders.database(self.database.db.as_deref())?))
        }
    }
}

fn said(value: &OsStr, variable: &str) -> Said {
    if std::env::var_os(variable).is_some_and(|set| set == value) { Said::Environment } else { Said::Flag }
}

/// Whether runs are at a coordinator.
fn is_elsewhere(coordinator: Option<Said>, database: Option<Said>) -> Result<bool, BadInput> {
    match (coordinator, database) {
        (Some(Said::Flag), Some(Said::Flag)) => {
            Err(BadInput("--coordinator and --db name two places: give the one where the run is".to_owned()))
        }
        (Some(Said::Environment), Some(Said::Flag)) | (None, _) => Ok(false),
        (Some(_), _) => Ok(true),
    }
}

/// Opens a database for reading; what is wrong with the path is bad input.
pub(crate) async fn open(path: &std::path::Path) -> Result<Reader, BadInput> {
    Store::open_read_only(path).await.map_err(|error| BadInput(error.to_string()))
}

/// A run of a coordinator, by its id or the beginning of it.
pub(crate) async fn get_run(client: &mut RunClient, run: &str) -> anyhow::Result<pb::Run> {
    let request = rpc::request(pb::GetRunRequest { run_id: run.to_owned() });
    let response = client.get_run(request).await.map_err(|status| rpc::refused(&status))?;
    Ok(response.into_inner().run.unwrap_or_default())
}

/// The newest runs of a coordinator.
pub(crate) async fn list_runs(client: &mut RunClient, limit: u32) -> anyhow::Result<Vec<pb::Run>> {
    let request = rpc::request(pb::ListRunsRequest { limit });
    Ok(client.list_runs(request).await.map_err(|status| rpc::refused(&status))?.into_inner().runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_environment_and_two_flags_contradict_each_other() {
        use Said::{Environment, Flag};
        assert!(is_elsewhere(Some(Flag), Some(Flag)).unwrap_err().0.contains("two places"));
        let expected = [
            (None, None, false),
            (None, Some(Environment), false),
            (Some(Environment), None, true),
            (Some(Environment), Some(Environment), true),
            (Some(Environment), Some(Flag), false),
            (Some(Flag), Some(Environment), true),
        ];
        for (coordinator, database, elsewhere) in expected {
            assert_eq!(is_elsewhere(coordinator, database).unwrap(), elsewhere, "{coordinator:?} {database:?}");
        }
    }
}
