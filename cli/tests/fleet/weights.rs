//! Weights that agents lack come from their coordinator, over the same wire as everything else.

use std::path::Path;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::model::{BUILT_IN_MODELS, parse_manifest};
use regatta_models::library::{Install, Installed, Library};
use regatta_models::{gguf, synth};
use regatta_proto::pb;

use crate::harness::Fleet;
use crate::proxy::Way;

fn artifact() -> ArtifactRef {
    let model = "regatta-15m".parse().unwrap();
    ArtifactRef { model, weights: Weights::Real, format: Format::Gguf, precision: Precision::F16 }
}

/// Gives the coordinator weights that only it has.
fn stock(folder: &Path) -> Installed {
    let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    let model = models.into_iter().find(|model| model.id == artifact().model).unwrap();
    let library = Library::open(&folder.join("models")).unwrap();
    let made = library.install(&artifact(), Install { seed: None, replace: false }, |folder| {
        synth::gguf(&model.shape, "regatta-15m", 3, Precision::F16, &folder.join(gguf::FILE), &mut |_, _| {})
    });
    made.unwrap()
}

/// A real engine on every agent.
fn request() -> pb::SubmitRunRequest {
    let text = "schema = 1\nname = \"weights\"\nmodels = [\"regatta-15m\"]\nweights = \"real\"\n\
                backends = [\"llama.cpp\"]\nprecisions = [\"f16\"]\n[policy]\nrepetitions = 2\n[policy.warmup]\n\
                min_repetitions = 0\nmax_repetitions = 0\nmin_time = \"0s\"\n\
                [[workload]]\nname = \"short\"\nprompt_tokens = 8\ngenerate = 4\n";
    let scenario = pb::ScenarioBundle {
        file: "weights.toml".to_owned(),
        text: text.to_owned(),
        models: BUILT_IN_MODELS.to_owned(),
        ..pb::ScenarioBundle::default()
    };
    pb::SubmitRunRequest { scenario: Some(scenario), allow_large: false, run_id: "run-a".to_owned(), priority: 0 }
}

/// The agents' own copies are the coordinator's, byte by byte.
fn delivered(fleet: &Fleet, agents: usize, original: &Installed) {
    for number in 0..agents {
        let library = Library::open(&fleet.folder.path().join(format!("agent-{number}/models"))).unwrap();
        let copy = library.find_hashed(&artifact()).unwrap();
        assert_eq!(copy.manifest.sha256(), original.manifest.sha256(), "agent {number}");
        assert!(std::fs::read(copy.path()).unwrap() == std::fs::read(original.path()).unwrap(), "agent {number}");
    }
}

async fn measured(fleet: &mut Fleet, agents: usize, original: &Installed) {
    let run = fleet.people().await.submit_run(request()).await.unwrap().into_inner().run_id.parse().unwrap();
    let done = fleet.done(&run).await;
    let ok = done.cells.get("ok").copied().unwrap_or_default() as usize;
    assert_eq!((ok, done.samples), (agents, 2 * agents as u64), "{:?}\n{}", done.cells, fleet.story());
    fleet.stop();
    delivered(fleet, agents, original);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_waits_for_weights_that_only_the_coordinator_has() {
    let mut fleet = Fleet::start(2).await;
    let original = stock(fleet.folder.path());
    measured(&mut fleet, 2, &original).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_of_weights_that_is_cut_goes_on_where_it_was() {
    let mut fleet = Fleet::start(1).await;
    let original = stock(fleet.folder.path());
    let half = usize::try_from(std::fs::metadata(original.path()).unwrap().len()).unwrap() / 2;
    let before = fleet.proxy.connections();
    fleet.proxy.cut_after(Way::Down, half);
    measured(&mut fleet, 1, &original).await;
    assert!(fleet.proxy.connections() > before + 1, "the transfer was not cut");
    let carried = fleet.proxy.carried(Way::Down);
    assert!(carried < 2 * half + half / 2, "{carried} bytes were sent, and half would have been {half}");
}
