//! `regatta models prune`.

use std::time::{Duration, SystemTime};

use clap::Args;
use regatta_core::artifact::{ArtifactRef, Weights};
use regatta_core::id::ModelId;
use regatta_models::incoming;
use regatta_models::library::{Library, Listed};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

pub(super) const EXAMPLES: &str = "\
Examples:
  regatta models prune --unused-for 30 --dry-run      what would go: weights that nothing used for 30 days
  regatta models prune --all --keep smollm2-135m      everything but that
  regatta models prune --all --synthetic              what can be made again without a network

Weights that share their bytes with the Hugging Face cache stay there; the room comes back when both let go.";

/// Arguments of `regatta models prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Weights that nothing has used for so many days
    #[arg(long, value_name = "DAYS", required_unless_present = "all", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    unused_for: Option<u64>,
    /// All weights, whenever they were used
    #[arg(long, conflicts_with = "unused_for")]
    all: bool,
    /// Models to keep (may be given several times)
    #[arg(long, value_name = "MODEL", value_delimiter = ',')]
    keep: Vec<ModelId>,
    /// Only synthetic weights
    #[arg(long)]
    synthetic: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Removes weights, and parts of files that a pull has left.
pub(super) fn run(args: &PruneArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let library = Library::open(&folders.model_root()?)?;
    let listed = library.list()?;
    if let Some(unknown) = args.keep.iter().find(|id| !listed.iter().any(|listed| listed.artifact.model == **id)) {
        let here: Vec<&str> = listed.iter().map(|listed| listed.artifact.model.as_str()).collect();
        return Err(
            BadInput(format!("--keep {unknown}: there are no weights of it; there are {}", here.join(", "))).into()
        );
    }
    let now = SystemTime::now();
    let mut freed = 0;
    for listed in listed.iter().filter(|listed| args.takes(listed, now)) {
        let bytes = bytes(listed);
        freed += bytes;
        output::line(&format!("{}  {}  {}", verb(args), size(bytes), listed.artifact));
        if !args.dry_run {
            library.remove(&listed.artifact)?;
        }
    }
    for (artifact, bytes) in incoming::left(&library) {
        if args.takes_part(&artifact) && incoming::remove(&library, &artifact, args.dry_run)? {
            freed += bytes;
            output::line(&format!("{}  {}  {artifact}, not fetched to its end", verb(args), size(bytes)));
        }
    }
    output::note(&format!("{} {}", if args.dry_run { "would free" } else { "freed" }, size(freed)));
    Ok(Exit::Done)
}

impl PruneArgs {
    fn takes(&self, listed: &Listed, now: SystemTime) -> bool {
        let artifact = &listed.artifact;
        if self.keep.contains(&artifact.model) || (self.synthetic && artifact.weights != Weights::Synthetic) {
            return false;
        }
        let Some(days) = self.unused_for else { return true };
        // What has no time of use is broken or was never used: it goes.
        let age = listed.used.and_then(|used| now.duration_since(used).ok());
        listed.used.is_none() || age.is_some_and(|age| age > Duration::from_secs(days * 24 * 60 * 60))
    }

    /// Parts of files are of real weights, and of no use before they are whole.
    fn takes_part(&self, artifact: &ArtifactRef) -> bool {
        self.all && !self.synthetic && !self.keep.contains(&artifact.model)
    }
}

fn verb(args: &PruneArgs) -> &'static str {
    if args.dry_run { "would remove" } else { "removed" }
}

fn bytes(listed: &Listed) -> u64 {
    let entries = std::fs::read_dir(&listed.folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use regatta_core::artifact::{Format, Precision};
    use regatta_models::ModelError;

    use super::*;

    fn listed(model: &str, weights: Weights, days_ago: Option<u64>, now: SystemTime) -> Listed {
        let model = model.parse().unwrap();
        let artifact = ArtifactRef { model, weights, format: Format::Gguf, precision: Precision::F16 };
        let state =
            Err(ModelError::NotInstalled { artifact: artifact.clone(), path: "x".into(), fix: "nothing".to_owned() });
        let used = days_ago.map(|days| now - Duration::from_secs(days * 24 * 60 * 60 + 60));
        Listed { artifact, folder: "x".into(), state, verified: false, used }
    }

    #[test]
    fn what_goes_is_what_was_said() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let args = |unused_for, keep: &[&str], synthetic| PruneArgs {
            unused_for,
            all: unused_for.is_none(),
            keep: keep.iter().map(|id| id.parse().unwrap()).collect(),
            synthetic,
            dry_run: false,
        };
        let all = [
            listed("old", Weights::Real, Some(40), now),
            listed("new", Weights::Real, Some(10), now),
            listed("made", Weights::Synthetic, Some(40), now),
            listed("never", Weights::Real, None, now),
        ];
        let gone = |args: PruneArgs| {
            all.iter()
                .filter(|l| args.takes(l, now))
                .map(|l| l.artifact.model.to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(gone(args(Some(30), &[], false)), "old made never");
        assert_eq!(gone(args(Some(30), &["old"], false)), "made never");
        assert_eq!(gone(args(None, &["old"], false)), "new made never");
        assert_eq!(gone(args(None, &[], true)), "made");
    }
}
