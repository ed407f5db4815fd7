//! Decisions: single ones, any of them, and a fleet's way to the end of its work.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::trial::Group;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn host(agent: &str) -> Host {
    Host {
        agent: agent.parse().unwrap(),
        free_from: Duration::ZERO,
        alive_until: Duration::from_secs(140),
        out_of_service: None,
    }
}

fn place(text: &str) -> Place {
    let (agent, device) = text.split_once('/').unwrap();
    Place { agent: agent.parse().unwrap(), device: device.parse().unwrap() }
}

fn artifact(model: &str) -> ArtifactRef {
    ArtifactRef {
        model: model.parse().unwrap(),
        weights: Weights::Synthetic,
        format: Format::Gguf,
        precision: Precision::F16,
    }
}

fn trial(run: &str, ordinal: u32, places: &[&str]) -> TrialView {
    let run: RunId = run.parse().unwrap();
    TrialView {
        id: TrialId::of(&run, ordinal),
        run,
        ordinal,
        priority: 0,
        exclusive: Exclusive::Host,
        places: places.iter().map(|text| place(text)).collect(),
        artifact: artifact("m"),
        group: None,
        avoid: Vec::new(),
        expected: None,
        hold: Hold::Queued,
    }
}

fn held(at: &str, expires_at: Duration) -> Hold {
    Hold::Held { place: place(at), epoch: Epoch(1), since: Duration::ZERO, expires_at: Some(expires_at) }
}

fn later() -> Duration {
    NOW + Duration::from_secs(1)
}

fn device_only(view: TrialView) -> TrialView {
    TrialView { exclusive: Exclusive::Device, ..view }
}

fn expected(seconds: u64, view: TrialView) -> TrialView {
    TrialView { expected: Some(Duration::from_secs(seconds)), ..view }
}

/// The trials of a group, the first with `ordinal`.
fn group(run: &str, ordinal: u32, places: &[&[&str]]) -> Vec<TrialView> {
    let (id, replicas) = (TrialId::of(&run.parse().unwrap(), ordinal), u32::try_from(places.len()).unwrap());
    let member = |(replica, places): (u32, &&[&str])| TrialView {
        group: Some(Group { id: id.clone(), replica, replicas }),
        ..trial(run, ordinal + replica, places)
    };
    (0..).zip(places).map(member).collect()
}

fn snapshot(hosts: &[&str], trials: impl IntoIterator<Item = TrialView>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for agent in hosts {
        snapshot.insert_host(host(agent), &[]);
    }
    for trial in trials {
        snapshot.insert(trial);
    }
    snapshot
}

/// What is decided, one line an action.
fn decided(snapshot: &Snapshot) -> Vec<String> {
    let line = |action: Action| match action {
        Action::Assign { seats } => {
            let seats: Vec<_> = seats.iter().map(|(trial, place)| format!("{trial} -> {place}")).collect();
            seats.join(", ")
        }
        Action::Expire { trial, epoch } => format!("expire {trial} {}", epoch.0),
    };
    decide(snapshot, NOW).into_iter().map(line).collect()
}

#[test]
fn the_oldest_run_goes_first_and_its_trials_in_order() {
    let trials = [trial("b", 0, &["x/cpu"]), trial("a", 10, &["x/cpu"]), trial("a", 9, &["x/cpu"])];
    assert_eq!(decided(&snapshot(&["x"], trials)), ["a.t9 -> x/cpu"]);
}

#[test]
fn a_host_with_a_trial_gets_no_second_one_but_its_neighbour_does() {
    let trials = [
        TrialView { hold: held("x/cpu", later()), ..trial("a", 0, &["x/cpu"]) },
        trial("a", 1, &["x/cuda:0"]),
        trial("a", 2, &["y/cpu"]),
        trial("a", 3, &["gone/cpu"]),
    ];
    assert_eq!(decided(&snapshot(&["x", "y"], trials)), ["a.t2 -> y/cpu"]);
}

#[test]
fn trials_that_have_only_their_device_run_side_by_side() {
    let trials = |exclusive| {
        let all = [trial("a", 0, &["x/cuda:0"]), trial("a", 1, &["x/cuda:1"]), trial("a", 2, &["x/cuda:1"])];
        all.map(|view| TrialView { exclusive, ..view })
    };
    assert_eq!(decided(&snapshot(&["x"], trials(Exclusive::Device))), ["a.t0 -> x/cuda:0", "a.t1 -> x/cuda:1"]);
    assert_eq!(decided(&snapshot(&["x"], trials(Exclusive::Host))), ["a.t0 -> x/cuda:0"]);
}

#[test]
fn a_host_is_kept_for_the_trial_that_needs_all_of_it() {
    let running = TrialView { hold: held("x/cuda:0", later()), ..device_only(trial("a", 0, &["x/cuda:0"])) };
    let small = device_only(trial("a", 1, &["x/cuda:1"]));
    let large = trial("b", 0, &["x/cuda:1"]);
    // Run b has nothing yet, so it is its turn; it waits for the host to be empty.
    assert!(decided(&snapshot(&["x"], [running.clone(), small.clone(), large.clone()])).is_empty());
    assert_eq!(decided(&snapshot(&["x"], [running, small.clone()])), ["a.t1 -> x/cuda:1"]);
    // One that may go elsewhere does.
    let elsewhere = TrialView { places: [place("x/cuda:1"), place("y/cuda:0")].into(), ..large };
    let busy = TrialView { hold: held("x/cuda:0", later()), ..device_only(trial("c", 0, &["x/cuda:0"])) };
    let decided = decided(&snapshot(&["x", "y"], [busy, small, elsewhere]));
    assert_eq!(decided, ["b.t0 -> y/cuda:0", "a.t1 -> x/cuda:1"]);
}

#[test]
fn a_lease_runs_out_at_its_time_and_nothing_is_assigned_along_with_it() {
    let trials = [TrialView { hold: held("x/cpu", NOW), ..trial("a", 0, &["x/cpu"]) }, trial("a", 1, &["x/cpu"])];
    let snapshot = snapshot(&["x"], trials);
    assert!(decide(&snapshot, NOW.checked_sub(Duration::from_nanos(1)).unwrap()).is_empty());
    assert_eq!(decided(&snapshot), ["expire a.t0 1"]);
}

#[test]
fn a_trial_that_waits_for_its_group_does_not_run_out() {
    let hold = Hold::Held { place: place("x/cpu"), epoch: Epoch(1), since: Duration::ZERO, expires_at: None };
    assert!(decided(&snapshot(&["x"], [TrialView { hold, ..trial("a", 0, &["x/cpu"]) }])).is_empty());
}

#[test]
fn a_host_that_refused_fell_silent_or_is_out_of_service_gets_nothing() {
    let refused = Host { free_from: later(), ..host("x") };
    let silent = Host { alive_until: NOW, ..host("x") };
    let drained = Host { out_of_service: Some("draining".to_owned()), ..host("x") };
    for host in [refused, silent, drained] {
        let mut snapshot = snapshot(&[], [trial("a", 0, &["x/cpu"])]);
        snapshot.insert_host(host, &[]);
        assert!(decided(&snapshot).is_empty());
    }
}

#[test]
fn priority_comes_first_then_the_run_with_the_fewest_trials_held() {
    let busy = TrialView { hold: held("y/cpu", later()), ..trial("a", 0, &["y/cpu"]) };
    let waiting = [trial("a", 1, &["x/cpu"]), trial("b", 0, &["x/cpu"])];
    let mut snapshot = snapshot(&["x", "y"], waiting.into_iter().chain([busy]));
    assert_eq!(decided(&snapshot), ["b.t0 -> x/cpu"]);
    snapshot.insert(TrialView { priority: 1, ..trial("a", 1, &["x/cpu"]) });
    assert_eq!(decided(&snapshot), ["a.t1 -> x/cpu"]);
}

#[test]
fn runs_share_the_fleet_within_one_decision() {
    let pool = ["w/cpu", "x/cpu", "y/cpu", "z/cpu"];
    let trials = (0..9).map(|i| trial("a", i, &pool)).chain((0..2).map(|i| trial("b", i, &pool)));
    let decided = decided(&snapshot(&["w", "x", "y", "z"], trials));
    assert_eq!(decided, ["a.t0 -> w/cpu", "b.t0 -> x/cpu", "a.t1 -> y/cpu", "b.t1 -> z/cpu"]);
}

#[test]
fn weights_in_memory_come_before_those_on_disk_and_long_trials_before_short_ones() {
    let with = |model: &str, view| TrialView { artifact: artifact(model), ..view };
    let trials = [
        expected(10, with("other", trial("a", 0, &["x/cpu"]))),
        expected(90, with("other", trial("a", 1, &["x/cpu"]))),
        with("unknown", trial("a", 2, &["x/cpu"])),
        expected(5, with("cached", trial("a", 3, &["x/cpu"]))),
        expected(2, with("used", trial("a", 4, &["x/cpu"]))),
    ];
    let mut snapshot = snapshot(&[], trials);
    snapshot.insert_host(host("x"), &[artifact("cached")]);
    let used = with("used", trial("b", 0, &["x/cpu"]));
    snapshot.insert(used.clone());
    snapshot.set_hold(&used.id, held("x/cpu", later()));
    snapshot.remove(&used.id);
    let mut order = Vec::new();
    while let Some(Action::Assign { seats }) = decide(&snapshot, NOW).first() {
        order.push(seats[0].0.to_string());
        snapshot.remove(&seats[0].0);
    }
    assert_eq!(order, ["a.t4", "a.t3", "a.t2", "a.t1", "a.t0"]);
}

#[test]
fn a_trial_takes_its_new_place_when_more_is_known_of_it() {
    let trials = [30, 20, 10].into_iter().zip(0..).map(|(takes, n)| expected(takes, trial("a", n, &["x/cpu"])));
    let mut snapshot = snapshot(&["x"], trials);
    assert_eq!(decided(&snapshot), ["a.t0 -> x/cpu"]);
    snapshot.set_expected(&TrialId::of(&"a".parse().unwrap(), 2), Duration::from_secs(40));
    assert_eq!(decided(&snapshot), ["a.t2 -> x/cpu"]);
    // One that an agent has goes on as it did.
    let id = TrialId::of(&"a".parse().unwrap(), 2);
    snapshot.set_hold(&id, held("x/cpu", later()));
    snapshot.set_expected(&id, Duration::from_secs(1));
    assert_eq!((decided(&snapshot).len(), snapshot.held().count()), (0, 1));
}

#[test]
fn a_trial_that_failed_somewhere_goes_elsewhere_if_there_is_an_elsewhere() {
    let again = TrialView { avoid: vec!["x".parse().unwrap()], ..trial("a", 0, &["x/cpu", "y/cpu"]) };
    assert!(decided(&snapshot(&["x"], [again.clone()])).len() == 1, "nobody else is there");
    assert_eq!(decided(&snapshot(&["x", "y"], [again.clone()])), ["a.t0 -> y/cpu"]);
    // It waits for one that is busy rather than to go where it failed.
    let busy = TrialView { hold: held("y/cpu", later()), ..trial("a", 1, &["y/cpu"]) };
    assert!(decided(&snapshot(&["x", "y"], [again, busy])).is_empty());
}

#[test]
fn a_group_begins_as_a_whole_or_not_at_all() {
    let fixed = group("a", 0, &[&["x/cuda:0"], &["x/cuda:1"]]);
    assert_eq!(decided(&snapshot(&["x"], fixed.clone())), ["a.t0 -> x/cuda:0, a.t1 -> x/cuda:1"]);
    assert!(decided(&snapshot(&["x"], fixed[..1].to_vec())).is_empty(), "half a group");

    let spread = group("a", 0, &[&["x/cuda:0"], &["y/cuda:0"]]);
    assert_eq!(decided(&snapshot(&["x", "y"], spread.clone())), ["a.t0 -> x/cuda:0, a.t1 -> y/cuda:0"]);
    assert!(decided(&snapshot(&["x"], spread.clone())).is_empty(), "one of its hosts is away");
    // While the other host is busy, the free one is kept; for a group that can't begin, it is not.
    let small = trial("b", 0, &["x/cuda:0"]);
    let busy = TrialView { hold: held("y/cuda:0", later()), ..trial("c", 0, &["y/cuda:0"]) };
    let waiting: Vec<_> = spread.into_iter().chain([small]).collect();
    assert!(decided(&snapshot(&["x", "y"], waiting.iter().cloned().chain([busy]))).is_empty());
    assert_eq!(decided(&snapshot(&["x"], waiting)), ["b.t0 -> x/cuda:0"]);
}

#[test]
fn a_group_of_a_pool_stays_on_one_agent_if_it_can() {
    let pool: &[&str] = &["x/cuda:0", "y/cuda:0", "y/cuda:1", "z/cuda:0"];
    assert_eq!(
        decided(&snapshot(&["x", "y", "z"], group("a", 0, &[pool, pool]))),
        ["a.t0 -> y/cuda:0, a.t1 -> y/cuda:1"]
    );
    assert_eq!(
        decided(&snapshot(&["x", "y", "z"], group("a", 0, &[pool, pool, pool]))),
        ["a.t0 -> x/cuda:0, a.t1 -> y/cuda:0, a.t2 -> y/cuda:1"]
    );
}

#[test]
fn what_a_run_waits_for_is_said_once() {
    let run = "a".parse().unwrap();
    let trials = [trial("a", 0, &["x/cpu"]), trial("a", 1, &["x/cpu"]), trial("a", 2, &["y/cpu"])];
    let trials = trials.into_iter().chain(group("a", 3, &[&["x/cpu"], &["z/cpu"]]));
    let mut snapshot = snapshot(&["y"], trials);
    snapshot.insert_host(Host { out_of_service: Some("quarantined: broken".to_owned()), ..host("x") }, &[]);
    let waits = outlook(&snapshot, &run, NOW).waits;
    assert_eq!(
        waits,
        [
            "2 devices at a time, 0 in service: agent x is quarantined: broken; agent z is not connected",
            "agent x is quarantined: broken"
        ]
    );
    assert_eq!(outlook(&snapshot, &"b".parse().unwrap(), NOW).waits, Vec::<String>::new());
}

#[test]
fn the_time_that_is_left_is_that_of_the_busiest_agent() {
    let run = "a".parse().unwrap();
    let pool = ["x/cpu", "y/cpu"];
    let since = NOW.checked_sub(Duration::from_secs(4)).unwrap();
    let hold = Hold::Held { place: place("x/cpu"), epoch: Epoch(1), since, expires_at: Some(later()) };
    let running = TrialView { hold, ..expected(10, trial("a", 0, &pool)) };
    let waiting = [expected(5, trial("a", 1, &pool)), expected(3, trial("a", 2, &pool))];
    let mut snapshot = snapshot(&["x", "y"], waiting.into_iter().chain([running]));
    // x has 6 s to go; y takes 5 s, then 3 s.
    assert_eq!(outlook(&snapshot, &run, NOW).remaining, Some(Duration::from_secs(8)));
    snapshot.insert(trial("a", 9, &pool));
    assert_eq!(outlook(&snapshot, &run, NOW).remaining, None, "nobody knows how long that one takes");
}

/// A fleet on which trials are leased and ended.
struct World {
    snapshot: Snapshot,
    now: Duration,
}

impl World {
    /// Carries out one decision after checking it; returns what was assigned.
    fn step(&mut self) -> Vec<(TrialId, Place)> {
        let mut assigned = Vec::new();
        for action in decide(&self.snapshot, self.now) {
            let Action::Assign { seats } = action else { panic!("{action:?}") };
            self.check_whole(&seats);
            for (id, place) in seats {
                let view = self.snapshot.trial(&id).unwrap();
                assert_eq!(view.hold, Hold::Queued, "{id} is leased twice");
                assert!(view.places.contains(&place), "{id} may not go to {place}");
                let host = self.snapshot.host(&place.agent).unwrap();
                assert!(host.out_of_service.is_none() && (host.free_from..host.alive_until).contains(&self.now));
                let hold = Hold::Held {
                    place: place.clone(),
                    epoch: Epoch(1),
                    since: self.now,
                    expires_at: Some(Duration::MAX),
                };
                self.snapshot.set_hold(&id, hold);
                assigned.push((id, place));
            }
        }
        self.check_hosts();
        assigned
    }

    /// A group comes whole, on as many places.
    fn check_whole(&self, seats: &[(TrialId, Place)]) {
        let ids: HashSet<_> = seats.iter().map(|(id, _)| id.clone()).collect();
        let whole: HashSet<_> = self.snapshot.together(&seats[0].0).into_iter().collect();
        assert_eq!(ids, whole);
        let replicas = self.snapshot.trial(&seats[0].0).unwrap().group.as_ref().map_or(1, |group| group.replicas);
        assert_eq!(seats.len(), replicas as usize);
    }

    /// One trial a device; beside one that has the whole host only those of its group.
    fn check_hosts(&self) {
        let mut by_agent: HashMap<AgentId, Vec<&TrialView>> = HashMap::new();
        let mut places = HashSet::new();
        for view in self.snapshot.held() {
            let Hold::Held { place, .. } = &view.hold else { panic!("not held") };
            assert!(places.insert(place.clone()), "two trials on {place}");
            by_agent.entry(place.agent.clone()).or_default().push(view);
        }
        for (agent, views) in by_agent {
            let group = |view: &TrialView| view.group.as_ref().map(|group| group.id.clone());
            let alone = views.iter().find(|view| view.exclusive == Exclusive::Host);
            let together = |view: &&TrialView| group(view).is_some() && group(view) == alone.and_then(|v| group(v));
            assert!(alone.is_none() || views.len() == 1 || views.iter().all(together), "{agent}");
        }
    }
}

/// Trials and groups over three hosts of three devices, one host perhaps out of service.
fn any_trials() -> impl Strategy<Value = Vec<TrialView>> {
    let places = prop::collection::btree_set((0..3usize, 0..3usize), 1..5);
    let one =
        (0..3usize, places, any::<bool>(), 0..3usize, prop::option::of(1..50u64), 0..3i32, 0..3usize, any::<bool>());
    prop::collection::vec(one, 1..25).prop_map(|all| {
        let mut next = [0; 3];
        let mut trials = Vec::new();
        for (run, places, device, model, seconds, priority, replicas, avoids) in all {
            let places: Arc<[Place]> =
                places.into_iter().map(|(host, device)| place(&format!("h{host}/cuda:{device}"))).collect();
            let replicas = u32::try_from(replicas.min(places.len()).max(1)).unwrap();
            let id = TrialId::of(&["a", "b", "c"][run].parse().unwrap(), next[run]);
            for replica in 0..replicas {
                let view = trial(["a", "b", "c"][run], next[run], &["h0/cpu"]);
                trials.push(TrialView {
                    places: Arc::clone(&places),
                    exclusive: if device { Exclusive::Device } else { Exclusive::Host },
                    artifact: artifact(["m0", "m1", "m2"][model]),
                    expected: seconds.map(Duration::from_secs),
                    priority,
                    avoid: if avoids { vec![places[0].agent.clone()] } else { Vec::new() },
                    group: (replicas > 1).then(|| Group { id: id.clone(), replica, replicas }),
                    ..view
                });
                next[run] += 1;
            }
        }
        trials
    })
}

proptest! {
    #[test]
    fn whatever_waits_is_measured_whole_and_undisturbed(trials in any_trials(), drained in 0..4usize, seed in any::<u64>()) {
        let mut world = World { snapshot: snapshot(&["h0", "h1", "h2"], trials), now: NOW };
        let gone = format!("h{drained}");
        if let Some(host) = gone.parse().ok().and_then(|agent| world.snapshot.host_mut(&agent)) {
            host.out_of_service = Some("draining".to_owned());
        }
        let mut seed = seed;
        // Each round begins what may begin, and ends one of the held trials, with its group.
        loop {
            // What was begun may make it another run's turn on a host that was kept.
            loop {
                let begun = world.step();
                prop_assert!(begun.iter().all(|(_, place)| place.agent.as_str() != gone));
                if begun.is_empty() {
                    break;
                }
            }
            let held: Vec<_> = world.snapshot.held().map(|view| view.id.clone()).collect();
            if held.is_empty() {
                break;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ended = &held[usize::try_from(seed >> 33).unwrap() % held.len()];
            for member in world.snapshot.together(ended) {
                world.snapshot.remove(&member);
            }
        }
        // What is left can't begin: too few of its places are in service.
        for run in ["a", "b", "c"] {
            let left = world.snapshot.trials_of(&run.parse().unwrap()).count();
            let waits = outlook(&world.snapshot, &run.parse().unwrap(), NOW).waits;
            prop_assert_eq!(left > 0, !waits.is_empty(), "{} {:?}", left, waits);
        }
    }
}

/// A simulated fleet of 200 hosts: four classes of device of unequal speed, 1,600 trials of unequal length in pools by
/// class, and a third of the hosts with a second device of another class, which competes for the host.
#[test]
fn a_fleet_of_unequal_devices_ends_within_five_percent_of_the_bound() {
    const CLASSES: [(&str, u64); 4] = [("cuda:0", 1), ("metal:0", 2), ("vulkan:0", 3), ("cpu", 5)];
    let mut pools: Vec<Vec<Place>> = vec![Vec::new(); CLASSES.len()];
    let mut snapshot = Snapshot::default();
    let forever = Duration::from_secs(1 << 30);
    for number in 0..200usize {
        let name = format!("h{number:03}");
        snapshot.insert_host(Host { alive_until: forever, ..host(&name) }, &[]);
        let classes = [Some(number % 4), (number % 3 == 0).then_some((number + 1) % 4)];
        for class in classes.into_iter().flatten() {
            pools[class].push(place(&format!("{name}/{}", CLASSES[class].0)));
        }
    }
    let pools: Vec<Arc<[Place]>> = pools.into_iter().map(Into::into).collect();
    let mut work = [0u64; 4];
    let mut longest = 0;
    let mut seed = 7u64;
    for ordinal in 0..1600u32 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let class = ordinal as usize % 4;
        // 20 s to 10 min on the fastest class; slower ones get smaller models.
        let seconds = (20 + (seed >> 33) % 580) * 5 / (6 - CLASSES[class].1);
        work[class] += seconds;
        longest = longest.max(seconds);
        let view = trial("a", ordinal, &["h000/cpu"]);
        snapshot.insert(TrialView { places: Arc::clone(&pools[class]), ..expected(seconds, view) });
    }
    // No schedule is shorter than the longest trial, nor, for any set of classes, than their work shared evenly by all
    // hosts that have one of them: a host measures one trial at a time.
    let bound = (1..16usize).map(|set| {
        let classes: Vec<_> = (0..4).filter(|class| set >> class & 1 == 1).collect();
        let hosts: HashSet<_> =
            classes.iter().flat_map(|&class| pools[class].iter().map(|p| p.agent.clone())).collect();
        classes.iter().map(|&class| work[class]).sum::<u64>() as f64 / hosts.len() as f64
    });
    let bound = bound.fold(longest as f64, f64::max);

    let mut world = World { snapshot, now: Duration::ZERO };
    let mut ends: BTreeSet<(Duration, TrialId)> = BTreeSet::new();
    loop {
        for (id, _) in world.step() {
            let takes = world.snapshot.trial(&id).unwrap().expected.unwrap();
            ends.insert((world.now + takes, id));
        }
        let Some((at, ended)) = ends.pop_first() else { break };
        world.now = at;
        world.snapshot.remove(&ended);
    }
    assert!(world.snapshot.is_empty());
    let makespan = world.now.as_secs_f64();
    assert!(makespan <= bound * 1.05, "makespan {makespan} s, bound {bound} s");
}
