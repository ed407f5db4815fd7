//! `regatta models pull`.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use directories::BaseDirs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::id::ModelId;
use regatta_core::model::{Model, Origin, Published, PublishedFile};
use regatta_models::import::import;
use regatta_models::library::{Installed, Library};
use regatta_pull::client::{Client, Timing};
use regatta_pull::hub::Hub;
use regatta_pull::policy::{HostRule, Policy};
use regatta_pull::pull::{Progress, Pulled, Puller, artifact};
use regatta_pull::{PullError, coordinator};

use super::{Common, manifest};
use crate::connect::ConnectArgs;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

pub(super) const EXAMPLES: &str = "\
Examples:
  regatta models pull smollm2-135m --format gguf --precision q8_0
  regatta models pull mistral-7b --format safetensors        go on after a cut: the same command again
  regatta models pull tinyllama-1.1b --from ./checkpoint     a folder or a GGUF file on this disk
  regatta models pull mistral-7b --format gguf --precision q4_k_m --from-coordinator --coordinator https://bench.example:7600
  regatta models pull my-model --models my.toml --allow-host weights.example

docs/models.md tells where weights come from, what is pinned, and which variables of the hub are read.";

/// Arguments of `regatta models pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The model's id
    model: ModelId,
    /// safetensors or gguf, where the manifest has both
    #[arg(long)]
    format: Option<Format>,
    /// The precision, where the manifest has several
    #[arg(long)]
    precision: Option<Precision>,
    /// A file or folder on this disk, or the https:// address of a GGUF file, in place of what the manifest says
    #[arg(long, value_name = "PATH|URL")]
    from: Option<String>,
    /// Fetch from the coordinator, which was told by --coordinator or is on this machine, in place of the manifest's origin
    #[arg(long, conflicts_with = "from")]
    from_coordinator: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Another host that weights may come from (may be given several times)
    #[arg(long = "allow-host", value_name = "HOST", env = "REGATTA_ALLOW_HOSTS", value_delimiter = ',')]
    allow_hosts: Vec<HostRule>,
    #[command(flatten)]
    common: Common,
}

/// Fetches weights into the library.
pub(super) async fn run(args: PullArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let models = manifest::read(args.common.models.as_deref())?;
    let model = manifest::find(models, &args.model)?;
    let library = Library::open(&folders.model_root()?)?;
    match args.from.as_deref() {
        Some(from) if !from.contains("://") => local(&args, &library, &model, Path::new(from)),
        _ if args.from_coordinator => fetch_from_coordinator(&args, &library, &model).await,
        from => {
            let published = match from {
                Some(url) => from_url(url, &args)?,
                None => choose(&model, args.format, args.precision)?.clone(),
            };
            fetch(&args, &library, &model, &published).await
        }
    }
}

/// Files that are on this disk are copied, nothing is fetched.
fn local(args: &PullArgs, library: &Library, model: &Model, from: &Path) -> anyhow::Result<Exit> {
    let installed = import(library, from, model, args.common.replace)?;
    done("installed", &installed);
    let artifact = &installed.manifest.artifact;
    let published = model.published(artifact.format, artifact.precision);
    let other = published.into_iter().flat_map(|published| {
        let differs = |file: &&PublishedFile| {
            let here = installed.manifest.files.iter().find(|here| here.name == published.local_name(file));
            here.is_some_and(|here| file.sha256.as_ref().is_some_and(|sha256| *sha256 != here.sha256))
        };
        published.files.iter().filter(differs)
    });
    for file in other {
        output::note(&format!("{} is not the published file of this name: its SHA-256 is another one", file.name));
    }
    Ok(Exit::Done)
}

async fn fetch(args: &PullArgs, library: &Library, model: &Model, published: &Published) -> anyhow::Result<Exit> {
    let home = BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    let hub = Hub::from_variables(|name| std::env::var(name).ok(), home.as_deref())
        .map_err(|refused| BadInput(format!("HF_ENDPOINT: {refused}")))?;
    let policy = Policy::new(&args.allow_hosts, hub.named.then(|| hub.endpoint.clone()));
    let token = hub.token.clone().map(|token| (token, hub.endpoint.clone()));
    let client = Client::new(policy, token)?;
    let lock = manifest::lock_of(args.common.models.as_deref(), library.root());
    let bar = Bar::new();
    let puller = Puller { library, hub: &hub, client: &client, lock: &lock, progress: &bar };
    said(&puller.pull(model, published, args.common.replace).await.map_err(with_exit)?);
    Ok(Exit::Done)
}

async fn fetch_from_coordinator(args: &PullArgs, library: &Library, model: &Model) -> anyhow::Result<Exit> {
    let artifact = match (args.format, args.precision) {
        (Some(format), Some(precision)) => {
            ArtifactRef { model: model.id.clone(), weights: Weights::Real, format, precision }
        }
        (format, precision) => artifact(model, choose(model, format, precision)?),
    };
    let connection = args.connect.connection()?;
    let (bar, timing) = (Bar::new(), Timing::default());
    let pull = coordinator::pull(&connection, library, &artifact, args.common.replace, &timing, &bar);
    said(&pull.await.map_err(with_exit)?);
    Ok(Exit::Done)
}

fn said(pulled: &Pulled) {
    match pulled {
        Pulled::There(installed) => done("is here already:", installed),
        Pulled::Installed(installed) => done("installed", installed),
    }
}

fn with_exit(error: PullError) -> anyhow::Error {
    if error.is_bad_input() { BadInput(error.to_string()).into() } else { error.into() }
}

fn done(what: &str, installed: &Installed) {
    let manifest = &installed.manifest;
    output::line(&format!("{what} {} in {}", manifest.artifact, installed.folder.display()));
    output::line(&format!("sha256 {}", manifest.sha256()));
}

/// The one published artifact that is meant.
fn choose(model: &Model, format: Option<Format>, precision: Option<Precision>) -> Result<&Published, BadInput> {
    let fits = |published: &&Published| {
        format.is_none_or(|format| format == published.format)
            && precision.is_none_or(|precision| precision == published.precision)
    };
    let found: Vec<&Published> = model.artifacts.iter().filter(fits).collect();
    match (found.as_slice(), model.artifacts.as_slice()) {
        ([published], _) => Ok(published),
        (_, []) => Err(BadInput(format!(
            "the manifest names no weights of {id} to fetch: give --from PATH, or make some with \
             'regatta models synth {id} --format … --precision …'",
            id = model.id
        ))),
        ([], all) => Err(BadInput(format!("no such weights of {}; there are:{}", model.id, listed(all.iter())))),
        (several, _) => {
            let several = listed(several.iter().copied());
            Err(BadInput(format!("several weights of {} fit; give --format and --precision:{several}", model.id)))
        }
    }
}

fn listed<'p>(published: impl Iterator<Item = &'p Published>) -> String {
    let size = |published: &Published| match published.bytes() {
        0 => String::new(),
        bytes => format!("  ({:.1} GB)", bytes as f64 / 1e9),
    };
    let line = |published: &Published| {
        let Published { format, precision, origin, .. } = published;
        format!("\n  --format {format} --precision {precision}  from {}{}", origin.name(), size(published))
    };
    published.map(line).collect()
}

/// A GGUF file behind an address.
fn from_url(text: &str, args: &PullArgs) -> Result<Published, BadInput> {
    let wrong = |what: String| BadInput(format!("--from: {what}"));
    // Refuses schemes and users before anything else is said of it.
    regatta_pull::policy::Url::parse(text).map_err(|refused| wrong(refused.to_string()))?;
    let (folder, name) = text.rsplit_once('/').unwrap_or_default();
    let is_gguf = Path::new(name).extension().is_some_and(|extension| extension == "gguf");
    if !is_gguf || args.format == Some(Format::Safetensors) {
        return Err(wrong(
            "an address must name a .gguf file; for safetensors write the folder and its files into a \
             manifest ([[model.ID.artifact]], url = …) and give --models FILE"
                .to_owned(),
        ));
    }
    let Some(precision) = args.precision else {
        return Err(wrong("give --precision too: the name of a file says nothing for sure".to_owned()));
    };
    let file = PublishedFile { name: name.to_owned(), bytes: None, sha256: None };
    let origin = Origin::Url(format!("{folder}/"));
    let published = Published { format: Format::Gguf, precision, origin, files: vec![file] };
    published.check().map_err(wrong)?;
    Ok(published)
}

/// A bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    /// Tenths of the file that have been said.
    said: std::sync::atomic::AtomicU64,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template(
            "{msg}  {bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar, said: std::sync::atomic::AtomicU64::new(0) }
    }

    fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }
}

impl Progress for Bar {
    fn begin(&self, name: &str, total: Option<u64>) {
        self.said.store(0, std::sync::atomic::Ordering::Relaxed);
        self.bar.reset();
        self.bar.set_message(name.to_owned());
        self.bar.set_length(total.unwrap_or_default());
        self.bar.enable_steady_tick(Duration::from_millis(500));
        if !self.is_shown() {
            let size = total.map_or_else(String::new, |bytes| format!(" ({bytes} bytes)"));
            output::note(&format!("fetching {name}{size}"));
        }
    }

    fn at(&self, bytes: u64) {
        // What was here before doesn't count for the rate.
        if self.bar.position() == 0 {
            self.bar.reset_eta();
        }
        self.bar.set_position(bytes);
        let tenth = bytes.saturating_mul(10) / self.bar.length().unwrap_or_default().max(1);
        let before = self.said.fetch_max(tenth, std::sync::atomic::Ordering::Relaxed);
        if !self.is_shown() && tenth > before && self.bar.length() != Some(0) {
            output::note(&format!("{} %", tenth * 10));
        }
    }

    fn end(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    fn note(&self, text: &str) {
        if self.is_shown() {
            self.bar.suspend(|| output::note(text));
        } else {
            output::note(text);
        }
    }
}
