//! `regatta backup`: a copy of the database, also while a coordinator writes to it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::source::{self, DatabaseArgs};

/// Arguments of `regatta backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  regatta backup /backups/regatta-monday.sqlite

The copy is one moment of the database, checked page by page; 'regatta restore FILE' puts it back. Tokens are in it, as hashes.")]
pub(crate) struct BackupArgs {
    /// The file to make; one that is there is left alone
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Copies the database.
pub(crate) async fn run(args: BackupArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let path = folders.database(args.database.db.as_deref())?;
    if args.file.exists() {
        let file = args.file.display();
        return Err(BadInput(format!("{file} is there already: name a file that is not")).into());
    }
    let reader = source::open(&path).await?;
    reader.backup(&args.file).await?;
    reader.close().await;
    if args.json {
        output::json(&json!({ "database": path, "backup": args.file }));
    } else {
        output::line(&format!("{} is a whole copy of {}", args.file.display(), path.display()));
    }
    Ok(Exit::Done)
}
