//! `regatta coordinator`: the service that leases trials to agents and stores what they measure.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgMatches, Args};
use regatta_coordinator::{Backups, Config, Coordinator, Limits, Tls, Webhook, WebhookSecret};
use regatta_net::secret;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::dashboard;
use crate::exit::{BadInput, Exit};
use crate::logs::{self, LogArgs};
use crate::output;
use crate::paths::{self, Folders};
use crate::schedules;
use crate::settings::{self, FileArgs};
use crate::signals;

/// The file of settings in the home folder.
const FILE: &str = "coordinator.toml";

/// The variable that may hold the webhook's secret: no flag does, because everyone on a machine can see the flags of a program.
pub(crate) const WEBHOOK_SECRET: &str = "REGATTA_COORDINATOR_WEBHOOK_SECRET";

/// Arguments of `regatta coordinator`.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    settings: CoordinatorSettings,
    #[command(flatten)]
    file: FileArgs,
}

/// What can be set by flags, by the environment and in the file.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CoordinatorSettings {
    /// Address and port to listen on [default: 127.0.0.1:7600]; port 0 takes a free one
    ///
    /// Anything but a loopback address needs --tls-cert and --tls-key, and tokens or --client-ca.
    #[arg(long, value_name = "ADDR", env = "REGATTA_COORDINATOR_LISTEN")]
    listen: Option<SocketAddr>,
    /// The database file [default: regatta.sqlite in the home folder]
    #[arg(long, value_name = "FILE", env = "REGATTA_DB")]
    db: Option<PathBuf>,
    /// File with the coordinator's certificate, and those that lead to its authority (PEM)
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// File with the certificate's private key (PEM)
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Ask everyone for a certificate of this authority (PEM); an agent's has the agent's name as DNS name
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// File with that authority's revocation lists (PEM)
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_CLIENT_CRL")]
    client_crl: Option<PathBuf>,
    /// Ask for a token on loopback too [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        env = "REGATTA_COORDINATOR_REQUIRE_TOKEN")]
    require_token: Option<bool>,
    /// Address and port for /metrics, /healthz and /readyz [default: none]
    #[arg(long, value_name = "ADDR", env = "REGATTA_COORDINATOR_METRICS")]
    metrics: Option<SocketAddr>,
    /// Let other machines see them: they ask for no credentials [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        env = "REGATTA_COORDINATOR_METRICS_PUBLIC")]
    metrics_public: Option<bool>,
    /// Address and port for the dashboard, read-only pages for browsers [default: none]
    ///
    /// On a loopback address it is open, as the coordinator is; any other needs --tls-cert and --tls-key, and who looks signs
    /// in with a token. It may be the same as that of --metrics.
    #[arg(long, value_name = "ADDR", env = "REGATTA_COORDINATOR_DASHBOARD")]
    dashboard: Option<SocketAddr>,
    /// Connections at the same time [default: 4096]
    #[arg(long, value_name = "N", env = "REGATTA_COORDINATOR_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Let agents fetch the weights in the model root [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        env = "REGATTA_COORDINATOR_SERVE_MODELS")]
    serve_models: Option<bool>,
    /// File of schedules, each with a scenario and when to run it [default: none]
    ///
    /// docs/nightly.md says what is in it; 'regatta schedules FILE' checks it and shows the next firings.
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_SCHEDULES")]
    schedules: Option<PathBuf>,
    /// Address that is told of verdicts on scheduled nights and of missed firings, by POST [default: none]
    ///
    /// https://, or http:// on this machine. docs/webhook.md says what is sent and how it is signed; the secret is in
    /// --webhook-secret-file or in the variable `REGATTA_COORDINATOR_WEBHOOK_SECRET`.
    #[arg(long, value_name = "URL", env = "REGATTA_COORDINATOR_WEBHOOK", hide_env_values = true)]
    webhook: Option<String>,
    /// File with the secret that notices are signed with (mode 600)
    #[arg(long, value_name = "FILE", env = "REGATTA_COORDINATOR_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Backups that are kept of those made before a schedule fires, one a night; 0 makes none [default: 7]
    #[arg(long, value_name = "N", env = "REGATTA_COORDINATOR_BACKUPS")]
    backups: Option<usize>,
    /// Folder of these backups [default: beside the database, with .backups at the end of its name]
    #[arg(long, value_name = "DIR", env = "REGATTA_COORDINATOR_BACKUP_DIR")]
    backup_dir: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    log: LogArgs,
}

fn defaults(folders: &Folders) -> anyhow::Result<CoordinatorSettings> {
    Ok(CoordinatorSettings {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 7600))),
        db: Some(folders.database(None)?),
        require_token: Some(false),
        metrics_public: Some(false),
        max_connections: Some(Limits::default().connections),
        serve_models: Some(true),
        backups: Some(7),
        log: LogArgs { log: Some("info".to_owned()), log_format: Some(logs::Format::Human) },
        ..CoordinatorSettings::default()
    })
}

impl CoordinatorSettings {
    fn config(&self, folders: &Folders) -> anyhow::Result<Config> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(Tls {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: self.client_ca.clone(),
                client_crl: self.client_crl.clone(),
            }),
            (None, None) if self.client_ca.is_none() => None,
            _ => {
                return Err(
                    BadInput("tls_cert and tls_key belong together, and client_ca needs both".to_owned()).into()
                );
            }
        };
        if self.client_crl.is_some() && self.client_ca.is_none() {
            return Err(BadInput("client_crl needs client_ca, whose revocations it lists".to_owned()).into());
        }
        let mut config = Config::new(folders.database(self.db.as_deref())?);
        config.listen = self.listen.unwrap_or(config.listen);
        config.tls = tls;
        config.require_token = self.require_token.unwrap_or(false);
        config.metrics = self.metrics;
        config.metrics_public = self.metrics_public.unwrap_or(false);
        config.dashboard = self.dashboard.map(dashboard::at);
        config.limits.connections = self.max_connections.unwrap_or(config.limits.connections).max(1);
        if let Some(file) = &self.schedules {
            config.schedules = schedules::read(file, (config.clock)())?;
        }
        config.webhook = self.webhook()?;
        config.backups = self.backups.filter(|keep| *keep > 0).map(|keep| Backups {
            folder: self.backup_dir.clone().unwrap_or_else(|| regatta_store::backup_folder(&config.db)),
            keep,
        });
        if self.serve_models.unwrap_or(true) {
            config.model_root = Some(folders.model_root()?);
        }
        Ok(config)
    }
}

impl CoordinatorSettings {
    fn webhook(&self) -> Result<Option<Webhook>, BadInput> {
        let Some(target) = &self.webhook else {
            let text = "webhook_secret_file needs webhook: the address that notices go to";
            return if self.webhook_secret_file.is_some() { Err(BadInput(text.to_owned())) } else { Ok(None) };
        };
        let (place, text) = match (&self.webhook_secret_file, std::env::var(WEBHOOK_SECRET)) {
            (Some(file), _) => {
                let bytes = secret::read_secret(file, "webhook secret").map_err(|error| BadInput(error.to_string()))?;
                let text = String::from_utf8(bytes);
                let text = text.map_err(|_| BadInput(format!("webhook secret {}: it is no text", file.display())))?;
                (file.display().to_string(), text)
            }
            (None, Ok(text)) => (WEBHOOK_SECRET.to_owned(), text),
            (None, Err(_)) => {
                let text = format!(
                    "webhook needs a secret, or nobody could tell whose notices they are: give --webhook-secret-file FILE, or \
                     set {WEBHOOK_SECRET}"
                );
                return Err(BadInput(text));
            }
        };
        let secret = WebhookSecret::new(&text).map_err(|error| BadInput(format!("{place}: {error}")))?;
        Ok(Some(Webhook::new(target, secret).map_err(|error| BadInput(format!("webhook: {error}")))?))
    }
}

/// Serves until it is told to stop: 0 after stopping in good order, 1 when it was stopped at once.
pub(crate) async fn run(
    args: CoordinatorArgs,
    matches: &ArgMatches,
    folders: &Folders,
    verbose: u8,
) -> anyhow::Result<Exit> {
    let file = folders.home()?.join(FILE);
    let settings = settings::resolve(&args.settings, matches, &args.file, &file, &defaults(folders)?)?;
    let config = settings.value.config(folders)?;
    if args.file.print_config {
        output::text(&settings.shown());
        return Ok(Exit::Done);
    }
    logs::start_service(&settings.value.log, verbose)?;
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    signals::watch("the coordinator", soft.clone(), hard.clone())?;
    paths::make_parent(&config.db)?;
    let bound = Coordinator::bind(config).await.map_err(|error| BadInput(error.to_string()))?;
    // On standard output, so that whoever starts it on port 0 learns which one it is.
    output::line(&format!("listening on {}", bound.addr()));
    if let Some(address) = bound.metrics_addr() {
        output::line(&format!("metrics on http://{address}/metrics"));
    }
    if let Some((address, encrypted)) = bound.dashboard_addr() {
        output::line(&format!("dashboard on {}://{address}/", if encrypted { "https" } else { "http" }));
    }
    tokio::select! {
        served = bound.serve(soft) => {
            served.context("the coordinator stopped with an error")?;
            Ok(Exit::Done)
        }
        () = hard.cancelled() => Ok(Exit::Failed),
    }
}
