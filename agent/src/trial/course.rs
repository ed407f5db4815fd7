//! The course of a trial: which cells are still open, and which of them the pass in hand has yet to visit. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use regatta_core::cell::CellHash;
use regatta_core::digest::Digest;
use regatta_core::id::BuildName;
use regatta_core::passes::{Progress, Stopped, order};
use regatta_core::policy::Passes;
use regatta_core::sample::Sample;
use regatta_core::trial::{Trial, TrialCell};

/// A cell that has not ended.
#[derive(Debug, Clone)]
struct Open {
    cell: TrialCell,
    progress: Progress,
}

/// Where a trial is on its way through its cells.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    policy: Passes,
    seed: Digest,
    /// Whether the trial is one of several replicas.
    in_group: bool,
    /// The builds of the worker that are measured in turns; without any, the one that there is.
    builds: Vec<Option<BuildName>>,
    pass: u32,
    open: Vec<Open>,
    /// The builds that the pass in hand has yet to come to; the first is the one in hand.
    turns: VecDeque<Option<BuildName>>,
    ahead: VecDeque<CellHash>,
}

impl Course {
    /// At the beginning of the first pass.
    pub(crate) fn new(trial: &Trial) -> Self {
        // Replicas have to visit their cells in the same order and equally often, whatever each of them measures.
        let (seed, policy) = match &trial.group {
            Some(group) => (group.id.as_str(), Passes::fixed(trial.policy.passes.min)),
            None => (trial.id.as_str(), trial.policy.passes),
        };
        let open = |cell: &TrialCell| Open { cell: cell.clone(), progress: Progress::default() };
        let mut builds: Vec<Option<BuildName>> = Vec::new();
        for cell in &trial.cells {
            if !builds.contains(&cell.build) {
                builds.push(cell.build.clone());
            }
        }
        let mut course = Self {
            policy,
            seed: Digest::of(seed.as_bytes()),
            in_group: trial.group.is_some(),
            turns: builds.iter().cloned().collect(),
            builds,
            pass: 0,
            open: trial.cells.iter().map(open).collect(),
            ahead: VecDeque::new(),
        };
        course.begin_turn();
        course
    }

    /// The build of the worker whose turn it is.
    pub(crate) fn build(&self) -> Option<BuildName> {
        self.turns.front().cloned().flatten()
    }

    /// Puts the cells of the build whose turn it is ahead, in the order of the pass: the same for every build.
    fn begin_turn(&mut self) {
        let build = self.build();
        let of_build = self.open.iter().filter(|open| open.cell.build == build);
        let mut cells: Vec<CellHash> = of_build.map(|open| open.cell.hash).collect();
        order(&self.seed, self.pass, &mut cells);
        self.ahead = cells.into();
    }

    /// Goes on to the next build of the pass in hand that has cells left; `false` where there is none.
    fn next_turn(&mut self) -> bool {
        while self.turns.pop_front().is_some() && !self.turns.is_empty() {
            self.begin_turn();
            if !self.ahead.is_empty() {
                return true;
            }
        }
        false
    }

    /// Which pass it is at, from 0.
    pub(crate) fn pass(&self) -> u32 {
        self.pass
    }

    /// Whether every cell has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// The cells that the pass in hand has yet to visit, in its order; the first is the one in hand.
    pub(crate) fn ahead(&self) -> Vec<TrialCell> {
        let find = |hash: &CellHash| self.open.iter().find(|open| open.cell.hash == *hash);
        self.ahead.iter().filter_map(find).map(|open| open.cell.clone()).collect()
    }

    /// A repetition of the cell in hand, and whether its surroundings allow to count it. Replicas are not measured again for
    /// what one of them saw: they have to do the same.
    pub(crate) fn add(&mut self, sample: &Sample, counts: bool) {
        let counts = counts || self.in_group;
        if let Some(open) = self.open.iter_mut().find(|open| open.cell.hash == sample.key.cell) {
            open.progress.add(sample, counts);
        }
    }

    /// The pass in hand is through with the cell in hand. Says which it was and why it ends, if it does.
    pub(crate) fn measured(&mut self, spent: Duration) -> Option<(CellHash, Stopped)> {
        let hash = self.ahead.pop_front()?;
        let at = self.open.iter().position(|open| open.cell.hash == hash)?;
        self.open[at].progress.end_pass();
        // Of builds in turns, all have to be through with the workload, so that there are pairs.
        if self.builds.len() > 1 {
            return None;
        }
        let stopped = self.open[at].progress.judge(&self.policy, spent)?;
        self.open.remove(at);
        Some((hash, stopped))
    }

    /// Takes the cell in hand out: it has ended in another way.
    pub(crate) fn take_in_hand(&mut self) -> Option<CellHash> {
        let hash = self.ahead.pop_front()?;
        self.open.retain(|open| open.cell.hash != hash);
        Some(hash)
    }

    /// Takes the cells of the build in hand out: they have ended in another way.
    pub(crate) fn take_build(&mut self) -> Vec<CellHash> {
        let build = self.build();
        self.ahead.clear();
        let (out, left) = self.open.drain(..).partition(|open| open.cell.build == build);
        self.open = left;
        out.into_iter().map(|open: Open| open.cell.hash).collect()
    }

    /// Takes all cells out: they have ended in another way.
    pub(crate) fn take_all(&mut self) -> Vec<CellHash> {
        self.ahead.clear();
        self.open.drain(..).map(|open| open.cell.hash).collect()
    }

    /// Gives the next build its turn, or begins another pass, where the process in hand has visited every cell. Returns the
    /// cells that end instead, because they have enough or their time is up.
    pub(crate) fn go_on(&mut self, spent: Duration) -> Vec<(CellHash, Stopped)> {
        if !self.ahead.is_empty() || self.next_turn() {
            return Vec::new();
        }
        let judge = |open: &Open| open.progress.judge(&self.policy, spent);
        // A workload goes on for all builds or for none, so that every pass has values of both.
        let all_have_enough =
            |workload| self.open.iter().filter(|open| open.cell.workload == workload).all(|open| judge(open).is_some());
        let enough = |open: &Open| judge(open).filter(|_| all_have_enough(open.cell.workload.clone()));
        let over: Vec<_> = self.open.iter().filter_map(|open| Some((open.cell.hash, enough(open)?))).collect();
        self.open.retain(|open| !over.iter().any(|(hash, _)| *hash == open.cell.hash));
        self.pass += 1;
        // A, B, then B, A: what drifts slowly falls on both alike.
        self.turns = self.builds.iter().cloned().collect();
        if self.pass % 2 == 1 {
            self.turns.make_contiguous().reverse();
        }
        self.begin_turn();
        if self.ahead.is_empty() {
            self.next_turn();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use regatta_core::passes::StopReason;
    use regatta_core::trial::Epoch;

    use super::*;
    use crate::testing;

    const NOW: Duration = Duration::ZERO;

    fn course(names: &[&str], passes: Passes) -> (Course, Vec<CellHash>) {
        let mut trial = testing::trial("t", names, 1);
        trial.policy.passes = passes;
        let cells = trial.cells.iter().map(|cell| cell.hash).collect();
        (Course::new(&trial), cells)
    }

    fn sample(cell: &TrialCell) -> Sample {
        Sample::try_from(testing::sample(cell, Epoch(1), 0)).unwrap()
    }

    #[test]
    fn a_pass_that_was_disturbed_is_made_up_for_twice_at_most() {
        let (mut course, cells) = course(&["a"], Passes::fixed(1));
        for pass in 0..3 {
            assert_eq!(course.pass(), pass);
            course.add(&sample(&course.ahead()[0]), false);
            let over = course.measured(NOW);
            let stopped = Stopped { passes: 3, reason: StopReason::Fixed };
            assert_eq!(over, (pass == 2).then_some((cells[0], stopped)));
            course.go_on(NOW);
        }
        assert!(course.is_over());
    }

    /// One worker process visits all that is ahead.
    fn visit(course: &mut Course, spent: Duration) -> Vec<(CellHash, Stopped)> {
        let mut over = Vec::new();
        for cell in course.ahead() {
            course.add(&sample(&cell), true);
            over.extend(course.measured(spent));
        }
        over
    }

    #[test]
    fn each_pass_visits_every_open_cell_once_until_all_have_enough() {
        let (mut course, cells) = course(&["a", "b", "c"], Passes::fixed(2));
        assert_eq!(visit(&mut course, NOW), []);
        assert!(course.ahead().is_empty() && !course.is_over());
        assert_eq!(course.go_on(NOW), []);
        assert_eq!((course.pass(), course.ahead().len()), (1, 3));
        let mut over: Vec<_> = visit(&mut course, NOW).into_iter().map(|(hash, _)| hash).collect();
        over.sort();
        let mut all = cells;
        all.sort();
        assert_eq!(over, all);
        assert!(course.is_over());
    }

    #[test]
    fn cells_that_are_precise_enough_are_visited_no_more() {
        let (mut course, cells) = course(&["a"], Passes::ADAPTIVE);
        for _ in 0..5 {
            assert_eq!(visit(&mut course, NOW), []);
            course.go_on(NOW);
        }
        let stopped = Stopped { passes: 6, reason: StopReason::Precise };
        assert_eq!(visit(&mut course, NOW), [(cells[0], stopped)], "all samples are alike");
    }

    #[test]
    fn when_time_is_up_no_other_pass_begins() {
        let (mut course, cells) = course(&["a", "b"], Passes { budget: Duration::from_secs(9), ..Passes::ADAPTIVE });
        assert_eq!(visit(&mut course, NOW), []);
        let stopped = Stopped { passes: 1, reason: StopReason::Budget };
        assert_eq!(course.go_on(Duration::from_secs(9)), [(cells[0], stopped), (cells[1], stopped)]);
        assert!(course.is_over());
    }

    /// A course of two builds over these workloads, and what a pass visits: build and workload.
    fn in_turns(names: &[&str], passes: u32) -> Course {
        let mut trial = testing::trial("t", names, 1);
        trial.policy.passes = Passes::fixed(passes);
        let cell = |cell: &TrialCell, build: &str| TrialCell {
            hash: CellHash(Digest::of(format!("{build} {}", cell.hash).as_bytes())),
            build: Some(build.parse().unwrap()),
            ..cell.clone()
        };
        trial.cells = trial.cells.iter().flat_map(|c| ["base", "candidate"].map(|build| cell(c, build))).collect();
        Course::new(&trial)
    }

    /// The build of each worker process until the course is over, with the workloads that it visits.
    fn turns(course: &mut Course, counts: impl Fn(u32, &str) -> bool) -> Vec<(u32, String, Vec<String>)> {
        let mut seen = Vec::new();
        while !course.is_over() {
            let (pass, build) = (course.pass(), course.build().unwrap().to_string());
            let ahead = course.ahead();
            seen.push((pass, build.clone(), ahead.iter().map(|cell| cell.workload.name.to_string()).collect()));
            for cell in ahead {
                assert_eq!(cell.build.as_ref().unwrap().as_str(), build);
                course.add(&sample(&cell), counts(pass, &build));
                assert_eq!(course.measured(NOW), None, "cells of builds end together");
            }
            course.go_on(NOW);
        }
        seen
    }

    #[test]
    fn builds_take_turns_in_the_order_a_b_b_a_and_visit_the_same_workloads() {
        let seen = turns(&mut in_turns(&["a", "b", "c"], 4), |_, _| true);
        let order: Vec<_> = seen.iter().map(|(pass, build, _)| (*pass, build.as_str())).collect();
        let (a, b) = ("base", "candidate");
        assert_eq!(order, [(0, a), (0, b), (1, b), (1, a), (2, a), (2, b), (3, b), (3, a)]);
        for both in seen.chunks(2) {
            assert_eq!(both[0].2, both[1].2);
        }
    }

    #[test]
    fn a_pass_that_was_disturbed_for_one_build_is_made_up_for_by_both() {
        let seen = turns(&mut in_turns(&["a"], 2), |pass, build| pass != 0 || build == "candidate");
        assert_eq!(seen.len(), 6, "three passes of two builds: {seen:?}");
    }

    #[test]
    fn a_build_that_fails_leaves_the_other_one_alone() {
        let mut course = in_turns(&["a", "b"], 2);
        assert_eq!(course.take_build().len(), 2);
        assert_eq!(course.go_on(NOW), []);
        let seen = turns(&mut course, |_, _| true);
        assert!(seen.len() == 2 && seen.iter().all(|(_, build, _)| build == "candidate"), "{seen:?}");
    }

    #[test]
    fn a_cell_that_failed_is_not_visited_again() {
        let (mut course, cells) = course(&["a", "b"], Passes::fixed(2));
        assert_eq!(course.take_in_hand(), Some(cells[0]));
        visit(&mut course, NOW);
        course.go_on(NOW);
        assert_eq!(course.ahead().iter().map(|cell| cell.hash).collect::<Vec<_>>(), [cells[1]]);
        assert_eq!(course.take_all(), [cells[1]]);
        assert!(course.is_over() && course.ahead().is_empty());
    }
}
