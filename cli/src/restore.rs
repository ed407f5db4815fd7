//! `regatta restore`: the way back from a backup.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use regatta_store::Store;
use serde_json::json;

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::{self, Folders};
use crate::source::DatabaseArgs;

/// Arguments of `regatta restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  regatta restore /backups/regatta-monday.sqlite     after the coordinator was stopped

The backup is checked page by page and copied; the database that it replaces is kept beside it, as FILE.replaced-TIME. Agents
deliver what is in their spools; what was acknowledged after the backup was made is only in the database that was replaced.")]
pub(crate) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Puts a backup in the place of the database.
pub(crate) async fn run(args: RestoreArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let path = folders.database(args.database.db.as_deref())?;
    paths::make_parent(&path)?;
    let replaced = Store::restore(&args.file, &path, Timestamp::now()).await;
    let replaced = replaced.map_err(|error| BadInput(error.to_string()))?;
    if args.json {
        output::json(&json!({ "backup": args.file, "database": path, "replaced": replaced }));
    } else {
        output::line(&format!("{} is {} again", path.display(), args.file.display()));
        if let Some(replaced) = replaced {
            output::note(&format!("what was there before is {}", replaced.display()));
        }
    }
    Ok(Exit::Done)
}
