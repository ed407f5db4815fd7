//! The barrier of one group under one lease: replicas begin each repetition together. A pure state machine.
//!
//! ```text
//!  away ── arrive ──► waiting ── all are there ──► released ── passed ──► (measures) ── arrive ──► waiting …
//!            │           │
//!            │           ├── its connection breaks ──► away, and it says again that it waits
//!            └───────────┴── a replica can't do the cell: abandoned, on to the next cell
//! ```
//! Replicas pass the same places in the same order: cell after cell, repetition after repetition. A place opens once,
//! and only when every replica waits there. A group whose replicas can't meet any more has come apart: it has to be
//! repeated as a group, under other leases and with another barrier.
//!
//! **Start skew.** The clocks of two machines are never compared. What is recorded is the time from the moment the
//! replicas were released to the moment the last of them said that it had begun, both on the coordinator's monotonic
//! clock. Every replica began between the two, so this is an upper bound of how far apart they began; it contains
//! both ways over the network.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A repetition of a cell. Replicas have cells of their own, at the same positions of their trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Position of the cell in its trial, from 0.
    pub position: u32,
    /// The repetition, from 0.
    pub repetition: u32,
}

/// The connection by which a replica was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Tell every replica to begin.
    Open(Place),
    /// Tell these replicas that their cell ends here, for the reason given.
    Abandon {
        /// Who, and where they wait.
        replicas: Vec<(u32, Place)>,
        /// Why: which replica failed, and how.
        reason: String,
    },
    /// The replicas can't meet any more, for the reason given: the group is to be repeated.
    Apart(String),
}

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// On its way: it loads, warms up or measures.
    Away,
    /// It waits to begin.
    Waiting { place: Place, connection: Connection },
    /// It has ended all of its cells, and comes to no barrier any more.
    Ended,
}

/// A place that has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Opened {
    place: Place,
    at: Duration,
    /// The connections by which the replicas were told, by replica.
    told: Vec<Connection>,
    /// Those who have said that they began.
    passed: BTreeSet<u32>,
}

/// The barrier. See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    stands: Vec<Stand>,
    /// Cells that a replica can't do, by position, with the reason.
    failed: BTreeMap<u32, String>,
    opened: Option<Opened>,
}

impl Barrier {
    /// The barrier of a group of so many replicas, none of which has come yet.
    pub fn new(replicas: u32) -> Self {
        Self { stands: vec![Stand::Away; replicas as usize], failed: BTreeMap::new(), opened: None }
    }

    /// A replica is ready for a repetition. The same may be said more than once. `now` is the monotonic time.
    pub fn arrive(&mut self, replica: u32, place: Place, connection: Connection, now: Duration) -> Verdict {
        if let Some(reason) = self.failed.get(&place.position) {
            return Verdict::Abandon { replicas: vec![(replica, place)], reason: reason.clone() };
        }
        match self.returns(replica, place, connection) {
            Return::No => {}
            Return::Repeated => return Verdict::Wait,
            Return::Deaf => {
                return Verdict::Apart(format!(
                    "replica {replica} did not hear that repetition {} began, and the others have begun",
                    place.repetition
                ));
            }
        }
        let Some(stand) = self.stands.get_mut(replica as usize) else { return Verdict::Wait };
        *stand = Stand::Waiting { place, connection };
        self.judge(now)
    }

    /// Whether a replica comes to a place that has opened already.
    fn returns(&self, replica: u32, place: Place, connection: Connection) -> Return {
        let Some(opened) = self.opened.as_ref().filter(|opened| place <= opened.place) else { return Return::No };
        let told = opened.told.get(replica as usize) == Some(&connection);
        if place < opened.place || told || opened.passed.contains(&replica) { Return::Repeated } else { Return::Deaf }
    }

    fn judge(&mut self, now: Duration) -> Verdict {
        let mut places = BTreeSet::new();
        let mut told = Vec::new();
        for stand in &self.stands {
            match stand {
                Stand::Away => return Verdict::Wait,
                Stand::Waiting { place, connection } => {
                    places.insert(*place);
                    told.push(*connection);
                }
                Stand::Ended => {}
            }
        }
        let Some(&place) = places.first() else { return Verdict::Wait };
        if places.len() > 1 || told.len() < self.stands.len() {
            return Verdict::Apart(format!(
                "its replicas wait for different repetitions, the first of them for repetition {}",
                place.repetition
            ));
        }
        self.stands.fill(Stand::Away);
        self.opened = Some(Opened { place, at: now, told, passed: BTreeSet::new() });
        Verdict::Open(place)
    }

    /// A replica has begun. The skew, when it was the last one: see the module.
    pub fn passed(&mut self, replica: u32, place: Place, now: Duration) -> Option<Duration> {
        let replicas = self.stands.len();
        let opened = self.opened.as_mut().filter(|opened| opened.place == place)?;
        let news = (replica as usize) < replicas && opened.passed.insert(replica);
        (news && opened.passed.len() == replicas).then(|| now.saturating_sub(opened.at))
    }

    /// A replica can't do a cell. Those who wait for it are let go.
    pub fn fail(&mut self, replica: u32, position: u32, why: &str) -> Verdict {
        let reason = format!("replica {replica} failed: {why}");
        let reason = self.failed.entry(position).or_insert(reason).clone();
        let mut replicas = Vec::new();
        for (replica, stand) in (0..).zip(&mut self.stands) {
            if let Stand::Waiting { place, .. } = *stand
                && place.position == position
            {
                replicas.push((replica, place));
                *stand = Stand::Away;
            }
        }
        if replicas.is_empty() { Verdict::Wait } else { Verdict::Abandon { replicas, reason } }
    }

    /// A replica has ended all of its cells.
    pub fn end(&mut self, replica: u32, now: Duration) -> Verdict {
        let Some(stand) = self.stands.get_mut(replica as usize) else { return Verdict::Wait };
        *stand = Stand::Ended;
        self.judge(now)
    }

    /// A connection is gone: who has waited there can't be told. It will say again that it waits.
    pub fn disconnect(&mut self, gone: Connection) {
        for stand in &mut self.stands {
            if matches!(stand, Stand::Waiting { connection, .. } if *connection == gone) {
                *stand = Stand::Away;
            }
        }
    }
}

/// What to make of a replica that comes to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// It has not opened.
    No,
    /// It has, and the replica knows: this is an old message.
    Repeated,
    /// It has, and the replica was told over a connection that broke.
    Deaf,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn place(position: u32, repetition: u32) -> Place {
        Place { position, repetition }
    }

    fn connection(replica: u32) -> Connection {
        Connection(u64::from(replica))
    }

    fn arrive(barrier: &mut Barrier, replica: u32, at: Place) -> Verdict {
        barrier.arrive(replica, at, connection(replica), Duration::ZERO)
    }

    #[test]
    fn it_opens_when_the_last_replica_is_there_and_the_skew_is_that_of_the_last_to_begin() {
        let mut barrier = Barrier::new(3);
        let first = place(0, 0);
        assert_eq!(arrive(&mut barrier, 0, first), Verdict::Wait);
        assert_eq!(arrive(&mut barrier, 2, first), Verdict::Wait);
        assert_eq!(arrive(&mut barrier, 2, first), Verdict::Wait);
        assert_eq!(barrier.arrive(1, first, connection(1), 5 * MS), Verdict::Open(first));
        assert_eq!(barrier.passed(1, first, 6 * MS), None);
        assert_eq!(barrier.passed(0, first, 8 * MS), None);
        assert_eq!(barrier.passed(0, first, 9 * MS), None);
        assert_eq!(barrier.passed(2, first, 12 * MS), Some(7 * MS));
        assert_eq!(barrier.passed(2, first, 13 * MS), None);
    }

    #[test]
    fn a_replica_that_can_not_do_a_cell_frees_those_who_wait_for_it_and_those_who_come_later() {
        let mut barrier = Barrier::new(3);
        arrive(&mut barrier, 0, place(1, 0));
        let reason = "replica 2 failed: oom".to_owned();
        let abandon = |replica| Verdict::Abandon { replicas: vec![(replica, place(1, 0))], reason: reason.clone() };
        assert_eq!(barrier.fail(2, 1, "oom"), abandon(0));
        assert_eq!(arrive(&mut barrier, 1, place(1, 0)), abandon(1));
        assert_eq!(barrier.fail(0, 1, "replica 2 failed: oom"), Verdict::Wait);
        for replica in 0..2 {
            assert_eq!(arrive(&mut barrier, replica, place(2, 0)), Verdict::Wait);
        }
        assert_eq!(arrive(&mut barrier, 2, place(2, 0)), Verdict::Open(place(2, 0)));
    }

    #[test]
    fn one_that_was_told_over_a_broken_connection_tears_the_group_apart() {
        let mut barrier = Barrier::new(2);
        arrive(&mut barrier, 0, place(0, 0));
        arrive(&mut barrier, 1, place(0, 0));
        barrier.passed(0, place(0, 0), MS);
        assert_eq!(barrier.arrive(0, place(0, 0), Connection(7), MS), Verdict::Wait, "an old message");
        assert!(matches!(barrier.arrive(1, place(0, 0), Connection(8), MS), Verdict::Apart(_)));
    }

    #[test]
    fn one_whose_connection_breaks_while_it_waits_does_not_count_until_it_comes_back() {
        let mut barrier = Barrier::new(2);
        arrive(&mut barrier, 0, place(0, 0));
        barrier.disconnect(connection(0));
        assert_eq!(arrive(&mut barrier, 1, place(0, 0)), Verdict::Wait);
        assert_eq!(barrier.arrive(0, place(0, 0), Connection(9), MS), Verdict::Open(place(0, 0)));
    }

    #[test]
    fn replicas_that_wait_for_different_repetitions_never_meet() {
        let mut barrier = Barrier::new(2);
        arrive(&mut barrier, 0, place(0, 1));
        assert!(matches!(arrive(&mut barrier, 1, place(0, 0)), Verdict::Apart(_)));
        let mut barrier = Barrier::new(2);
        arrive(&mut barrier, 0, place(0, 1));
        assert!(matches!(barrier.end(1, MS), Verdict::Apart(_)));
    }

    /// What may happen to a group of which every replica is an honest one: it goes from place to place.
    #[derive(Debug, Clone)]
    enum Happening {
        /// A replica does what it does next.
        Step(u32),
        /// Its last message comes again.
        Repeat(u32),
        /// Its connection breaks; what was told over it is lost or not.
        Cut { replica: u32, loses: bool },
        /// It fails the cell that it is at.
        Fail(u32),
    }

    fn happenings(replicas: u32) -> impl Strategy<Value = Vec<Happening>> {
        let who = 0..replicas;
        let one = prop_oneof![
            12 => who.clone().prop_map(Happening::Step),
            3 => who.clone().prop_map(Happening::Repeat),
            1 => (who.clone(), any::<bool>()).prop_map(|(replica, loses)| Happening::Cut { replica, loses }),
            1 => who.prop_map(Happening::Fail),
        ];
        prop::collection::vec(one, 0..300)
    }

    const CELLS: u32 = 3;
    const REPETITIONS: u32 = 3;

    /// A replica as an agent plays it.
    #[derive(Debug, Clone)]
    struct Replica {
        place: Place,
        connection: Connection,
        /// The connection over which it said that it waits.
        said_over: Connection,
        doing: Doing,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Doing {
        Walking,
        Waiting,
        Told,
        Measuring,
        Ended,
    }

    struct World {
        barrier: Barrier,
        replicas: Vec<Replica>,
        opened: BTreeMap<Place, u32>,
        connections: u64,
        apart: bool,
    }

    impl World {
        fn new(replicas: u32) -> Self {
            let replica = |n| {
                let connection = connection(n);
                Replica { place: place(0, 0), connection, said_over: connection, doing: Doing::Walking }
            };
            Self {
                barrier: Barrier::new(replicas),
                replicas: (0..replicas).map(replica).collect(),
                opened: BTreeMap::new(),
                connections: 1000,
                apart: false,
            }
        }

        fn at(&mut self, replica: u32) -> &mut Replica {
            &mut self.replicas[replica as usize]
        }

        fn obey(&mut self, verdict: Verdict) {
            match verdict {
                Verdict::Wait => {}
                Verdict::Open(place) => {
                    *self.opened.entry(place).or_default() += 1;
                    for replica in &mut self.replicas {
                        // Only where every one of them really waits, at this place.
                        assert_eq!((replica.doing, replica.place), (Doing::Waiting, place));
                        replica.doing = Doing::Told;
                    }
                }
                Verdict::Abandon { replicas, .. } => {
                    for (replica, place) in replicas {
                        // An answer to an old message finds nobody waiting there.
                        if (self.at(replica).doing, self.at(replica).place) == (Doing::Waiting, place) {
                            self.next_cell(replica);
                        }
                    }
                }
                Verdict::Apart(_) => self.apart = true,
            }
        }

        fn next_cell(&mut self, replica: u32) {
            let position = self.at(replica).place.position + 1;
            self.go_to(replica, place(position, 0));
        }

        fn go_to(&mut self, replica: u32, place: Place) {
            let ended = place.position == CELLS;
            let replica_of = self.at(replica);
            replica_of.place = place;
            replica_of.doing = if ended { Doing::Ended } else { Doing::Walking };
            if ended {
                let verdict = self.barrier.end(replica, MS);
                self.obey(verdict);
            }
        }

        fn say(&mut self, replica: u32) {
            let Replica { place, connection, said_over, doing } = self.at(replica).clone();
            match doing {
                Doing::Waiting => {
                    self.at(replica).said_over = connection;
                    let verdict = self.barrier.arrive(replica, place, connection, MS);
                    self.obey(verdict);
                }
                // The old message once more.
                Doing::Told => {
                    let verdict = self.barrier.arrive(replica, place, said_over, MS);
                    self.obey(verdict);
                }
                Doing::Measuring => drop(self.barrier.passed(replica, place, MS)),
                Doing::Walking | Doing::Ended => {}
            }
        }

        fn happen(&mut self, happening: &Happening) {
            match *happening {
                Happening::Step(replica) => {
                    let Replica { place: at, doing, .. } = self.at(replica).clone();
                    match doing {
                        Doing::Walking => {
                            self.at(replica).doing = Doing::Waiting;
                            self.say(replica);
                        }
                        Doing::Told => {
                            self.at(replica).doing = Doing::Measuring;
                            self.say(replica);
                        }
                        Doing::Measuring if at.repetition + 1 < REPETITIONS => {
                            self.go_to(replica, place(at.position, at.repetition + 1));
                        }
                        Doing::Measuring => self.next_cell(replica),
                        Doing::Waiting | Doing::Ended => {}
                    }
                }
                Happening::Repeat(replica) => self.say(replica),
                Happening::Cut { replica, loses } => {
                    let gone = self.at(replica).connection;
                    self.barrier.disconnect(gone);
                    self.connections += 1;
                    let (connection, told) = (Connection(self.connections), self.at(replica).doing == Doing::Told);
                    self.at(replica).connection = connection;
                    if told && loses {
                        // It waits on and says so: the others may have begun.
                        self.at(replica).doing = Doing::Waiting;
                    }
                    if self.at(replica).doing == Doing::Waiting {
                        self.say(replica);
                    }
                }
                Happening::Fail(replica) => {
                    let Replica { place, doing, .. } = self.at(replica).clone();
                    if doing == Doing::Walking || doing == Doing::Measuring {
                        let verdict = self.barrier.fail(replica, place.position, "oom");
                        self.obey(verdict);
                        self.next_cell(replica);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_place_opens_once_and_only_when_every_replica_waits_there(
            (replicas, happenings) in (2u32..5).prop_flat_map(|n| (Just(n), happenings(n))),
        ) {
            let mut world = World::new(replicas);
            for happening in &happenings {
                // The group is released then: what comes later finds no barrier.
                if world.apart {
                    break;
                }
                world.happen(happening);
                prop_assert!(world.opened.values().all(|&times| times == 1), "{:?}", world.opened);
            }
            // Whatever happened, an undisturbed group gets to its end, or is apart: nobody waits for ever.
            for _ in 0..(CELLS * REPETITIONS * 4) {
                for replica in 0..replicas {
                    if !world.apart {
                        world.happen(&Happening::Step(replica));
                    }
                }
            }
            prop_assert!(world.apart || world.replicas.iter().all(|replica| replica.doing == Doing::Ended));
        }

        /// Without cuts nothing tears a group apart.
        #[test]
        fn an_undisturbed_group_stays_together(
            (replicas, happenings) in (2u32..5).prop_flat_map(|n| (Just(n), happenings(n))),
        ) {
            let mut world = World::new(replicas);
            for happening in happenings.iter().filter(|one| !matches!(one, Happening::Cut { .. })) {
                world.happen(happening);
                prop_assert!(!world.apart);
            }
        }
    }
}
