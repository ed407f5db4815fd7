//! `regatta import`: results of other tools, kept beside one's own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use regatta_core::digest::Digest;
use regatta_reporter::llama_bench::{self, Imported};
use regatta_store::{ImportRecord, Kept, NewImport, Store};
use serde_json::{Value, json};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::{self, Folders};
use crate::source::{self, DatabaseArgs};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// What to import.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Take rows of llama-bench, for reports
    #[command(name = "llama-bench")]
    LlamaBench(LlamaBenchArgs),
    /// List what was imported
    List(ListArgs),
}

/// Arguments of `regatta import llama-bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  llama-bench -m model.gguf -o jsonl > bench.jsonl; regatta import llama-bench bench.jsonl

Any version's json, jsonl and csv are taken: fields that are missing or unknown are named, and the unknown kept.
A file that was imported before is not imported again.")]
pub(crate) struct LlamaBenchArgs {
    /// What llama-bench wrote with -o jsonl, json or csv
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON: the import
    #[arg(long)]
    json: bool,
}

/// Arguments of `regatta import list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Imports, or lists what was imported.
pub(crate) async fn run(command: ImportCommand, folders: &Folders) -> anyhow::Result<Exit> {
    match command {
        ImportCommand::LlamaBench(args) => llama_bench(args, folders).await,
        ImportCommand::List(args) => list(args, folders).await,
    }
}

async fn llama_bench(args: LlamaBenchArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let content = read(&args.file)?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let imported =
        llama_bench::read(&args.file.display().to_string(), &content).map_err(|error| BadInput(error.to_string()))?;
    let new = new_import(name, &content, &imported)?;
    let database = folders.database(args.database.db.as_deref())?;
    paths::make_parent(&database)?;
    let store = Store::open(&database, Timestamp::now).await.map_err(|error| BadInput(error.to_string()))?;
    let id = new.id.clone();
    let kept = store.writer().write(new).await;
    store.close().await;
    let (id, is_new) = match kept.context("failed to keep the rows")? {
        Kept::New => (id, true),
        Kept::Before(id) => (id, false),
    };
    if args.json {
        output::json(&json!({
            "import": id.as_str(),
            "rows": imported.rows.len(),
            "new": is_new,
            "unknown_fields": imported.unknown,
            "missing_fields": imported.missing,
        }));
        return Ok(Exit::Done);
    }
    for note in notes(&imported) {
        output::note(&note);
    }
    let how = if is_new { "imported" } else { "was imported before" };
    output::line(&format!("{id}  {} rows, {how}; show them with: regatta report {id}", imported.rows.len()));
    Ok(Exit::Done)
}

fn new_import(file: String, content: &str, imported: &Imported) -> anyhow::Result<NewImport> {
    let rows = imported.rows.iter().map(|row| serde_json::to_string(&row.0)).collect::<Result<_, _>>()?;
    let id = uuid::Uuid::now_v7().to_string().parse()?;
    Ok(NewImport { id, tool: "llama-bench".to_owned(), file, digest: Digest::of(content.as_bytes()), rows })
}

/// What a person is to know of fields that this version does not find or does not know.
fn notes(imported: &Imported) -> Vec<String> {
    let mut notes = Vec::new();
    if !imported.unknown.is_empty() {
        let names: Vec<&str> = imported.unknown.iter().map(String::as_str).collect();
        notes.push(format!("fields that are not known here are kept and not shown: {}", names.join(", ")));
    }
    if !imported.missing.is_empty() {
        let names: Vec<&str> = imported.missing.iter().copied().collect();
        notes.push(format!("fields that some rows lack are shown as –: {}", names.join(", ")));
    }
    notes
}

fn read(path: &Path) -> Result<String, BadInput> {
    let shown = path.display();
    let wrong = |error: std::io::Error| BadInput(format!("failed to read {shown}: {error}"));
    let length = path.metadata().map_err(wrong)?.len();
    if length > MAX_FILE {
        return Err(BadInput(format!("{shown}: {length} bytes, at most {MAX_FILE} are read")));
    }
    std::fs::read_to_string(path).map_err(wrong)
}

async fn list(args: ListArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let reader = source::open(&folders.database(args.database.db.as_deref())?).await?;
    let imports = reader.imports().await?;
    if args.json {
        output::json(&Value::Array(imports.iter().map(import_json).collect()));
    } else if imports.is_empty() {
        output::note("nothing was imported yet: regatta import llama-bench FILE");
    } else {
        for ImportRecord { id, tool, file, imported_at, rows } in &imports {
            let at = imported_at.strftime("%Y-%m-%d %H:%M UTC");
            output::line(&format!("{id}  {at}  {tool}  {rows} rows of {}", regatta_core::id::shown(file)));
        }
    }
    Ok(Exit::Done)
}

fn import_json(import: &ImportRecord) -> Value {
    json!({
        "import": import.id.as_str(),
        "tool": import.tool,
        "file": import.file,
        "imported_at": import.imported_at.to_string(),
        "rows": import.rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_missing_or_unknown_are_named() {
        let imported = llama_bench::read("x", r#"{"n_prompt":1,"n_gen":0,"avg_ts":2,"of_tomorrow":3,"cpu_info":"c"}"#);
        insta::assert_snapshot!(notes(&imported.unwrap()).join("\n"));
    }
}
