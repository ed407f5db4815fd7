use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Readings every 100 ms from 0 to `seconds`.
fn series(seconds: u64, reading: impl Fn(u64) -> Reading) -> Vec<(u64, Reading)> {
    (0..=seconds * 10).map(|i| (i * 100 * MS, reading(i))).collect()
}

fn close(found: Option<f64>, expected: f64) {
    assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?} is not {expected}");
}

#[test]
fn states_within_the_window_count() {
    let readings = series(4, |i| Reading {
        clock_mhz: Some(if (10..20).contains(&i) { 1000.0 + i as f64 } else { 50.0 }),
        temperature_c: Some(i as f64),
        power_w: Some(100.0),
        ..Reading::default()
    });
    let telemetry = summarise(&readings, SECOND, 2 * SECOND - 1).unwrap();
    assert_eq!(telemetry.readings, 10);
    assert_eq!(telemetry.clock_mhz, Some(Spread { min: 1010.0, median: 1014.5, max: 1019.0 }));
    close(telemetry.power_w, 100.0);
    // The reading right behind the window speaks for its end.
    close(telemetry.temperature_c, 20.0);
    assert!(telemetry.clock_cv.unwrap() < 0.01);
}

#[test]
fn a_window_too_short_for_a_reading_takes_the_nearest_one() {
    let readings = series(2, |i| Reading { clock_mhz: Some(i as f64), is_idle: Some(true), ..Reading::default() });
    let telemetry = summarise(&readings, 1_010 * MS, 1_020 * MS).unwrap();
    assert_eq!((telemetry.readings, telemetry.window_ns), (0, 10 * MS));
    close(telemetry.clock_mhz.map(|clock| clock.median), 10.0);
    assert_eq!((telemetry.clock_cv, telemetry.idle_share), (None, None), "one reading from outside is no spread");
    assert_eq!(summarise(&readings, 10 * SECOND, 11 * SECOND), None, "no reading is near");
    assert_eq!(summarise(&[], 0, SECOND), None);
}

#[test]
fn counters_are_taken_between_the_readings_around_the_window() {
    let readings = series(4, |i| Reading {
        throttled_ns: Throttled { hw_thermal: Some(i * MS), sw_power_cap: Some(7), ..Throttled::default() },
        ..Reading::default()
    });
    let throttled = summarise(&readings, 1_050 * MS, 1_950 * MS).unwrap().throttled_ns;
    assert_eq!(throttled.hw_thermal, Some(10 * MS));
    assert_eq!(throttled.sw_power_cap, Some(0), "known, and nothing");
    assert_eq!(throttled.sw_thermal, None, "not known");
}

#[test]
fn a_counter_that_begins_anew_says_nothing() {
    let counter = |i: u64| Throttled { hw_slowdown: Some(if i < 15 { 100 + i } else { i }), ..Throttled::default() };
    let readings = series(3, |i| Reading { throttled_ns: counter(i), ..Reading::default() });
    assert_eq!(summarise(&readings, SECOND, 2 * SECOND).unwrap().throttled_ns.hw_slowdown, None);
}

#[test]
fn energy_needs_ten_seconds() {
    let readings = series(30, |i| Reading { energy_mj: Some(1_000 + i * 25_000), ..Reading::default() });
    let energy = |from, to| summarise(&readings, from, to).unwrap().energy_mj;
    assert_eq!(energy(SECOND, 11 * SECOND), Some(2_500_000 + 25_000 * 2));
    assert_eq!(energy(SECOND, 11 * SECOND - 1), None);
    let telemetry = Telemetry { energy_mj: Some(2_500_000), ..Telemetry::default() };
    close(telemetry.joules_per_token(500), 5.0);
    assert_eq!(telemetry.joules_per_token(0), None);
    assert_eq!(Telemetry::default().joules_per_token(500), None);
}

#[test]
fn load_by_others_leaves_the_worker_out_and_looks_back_a_second() {
    // Two cores are busy, the worker is one and a half of them.
    let busy = |i: u64| (Some(i * 200 * MS), Some(i * 150 * MS));
    let readings = series(4, |i| {
        let (host_busy_ns, own_busy_ns) = busy(i);
        Reading { host_busy_ns, own_busy_ns, ..Reading::default() }
    });
    let load = |from, to| summarise(&readings, from, to).unwrap().load_by_others;
    close(load(SECOND, 3 * SECOND), 0.5);
    close(load(2_010 * MS, 2_020 * MS), 0.5);
    assert_eq!(load(10 * MS, 20 * MS), None, "there is no second to look back to");
    // A source that tells it once a second.
    let mut rare = series(5, |i| {
        let (host_busy_ns, own_busy_ns) = busy(i);
        Reading { host_busy_ns, own_busy_ns, ..Reading::default() }
    });
    rare.iter_mut().filter(|(at, _)| !at.is_multiple_of(SECOND)).for_each(|(_, reading)| *reading = Reading::default());
    close(summarise(&rare, 2_500 * MS, 4 * SECOND).unwrap().load_by_others, 0.5);
    let alone = series(4, |i| Reading { host_busy_ns: busy(i).0, ..Reading::default() });
    assert_eq!(summarise(&alone, SECOND, 3 * SECOND).unwrap().load_by_others, None);
}

#[test]
fn memory_of_the_worker_is_its_own_or_what_was_added() {
    let mut telemetry =
        Telemetry { memory_used_bytes: Some(9), memory_baseline_bytes: Some(4), ..Telemetry::default() };
    assert_eq!(telemetry.device_memory_bytes(), Some(5));
    telemetry.own_memory_bytes = Some(3);
    assert_eq!(telemetry.device_memory_bytes(), Some(3));
    assert_eq!(Telemetry { memory_used_bytes: Some(9), ..Telemetry::default() }.device_memory_bytes(), None);
}

prop_compose! {
    fn reading()(
        clock in prop::option::of(1.0f64..3000.0),
        power in prop::option::of(1.0f64..700.0),
        temperature in prop::option::of(1.0f64..110.0),
        memory in prop::option::of(1u64..1 << 40),
        foreign in prop::option::of(0u32..3),
        counters in prop::option::of((0u64..1 << 40, 0u64..1 << 40)),
        idle in prop::option::of(any::<bool>()),
    ) -> Reading {
        Reading {
            clock_mhz: clock,
            power_w: power,
            temperature_c: temperature,
            memory_used_bytes: memory,
            foreign_processes: foreign,
            energy_mj: counters.map(|(energy, _)| energy),
            throttled_ns: Throttled { sw_thermal: counters.map(|(_, ns)| ns), ..Throttled::default() },
            is_idle: idle,
            ..Reading::default()
        }
    }
}

fn readings() -> impl Strategy<Value = Vec<(u64, Reading)>> {
    prop::collection::vec((1u64..400 * MS, reading()), 0..60).prop_map(|steps| {
        let mut at = 0;
        steps
            .into_iter()
            .map(|(step, reading)| {
                at += step;
                (at, reading)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_summary_says_nothing_that_no_reading_said(
        readings in readings(),
        start in 0u64..20 * SECOND,
        length in 0u64..20 * SECOND,
    ) {
        let end = start + length;
        let Some(summary) = summarise(&readings, start, end) else {
            let near = |at: u64| at + REACH_NS >= start && at <= end + REACH_NS;
            prop_assert!(!readings.iter().any(|(at, _)| near(*at)));
            return Ok(());
        };
        let clocks: Vec<f64> = readings.iter().filter_map(|(_, r)| r.clock_mhz).collect();
        if let Some(spread) = summary.clock_mhz {
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            prop_assert!(clocks.contains(&spread.min) && clocks.contains(&spread.max));
        }
        prop_assert_eq!(summary.clock_cv.is_some_and(|cv| cv < 0.0), false);
        if let Some(share) = summary.idle_share {
            prop_assert!((0.0..=1.0).contains(&share));
        }
        prop_assert!(summary.energy_mj.is_none() || length >= MIN_ENERGY_NS);
        let biggest = readings.iter().filter_map(|(_, r)| r.memory_used_bytes).max();
        prop_assert!(summary.memory_used_bytes <= biggest);
        // What no source tells here is not told.
        prop_assert_eq!((summary.load_by_others, summary.cpu_mhz, summary.own_memory_bytes), (None, None, None));
        prop_assert_eq!(summary.throttled_ns.hw_thermal, None);
        prop_assert_eq!((summary.pcie, summary.on_battery, summary.governor), (None, None, None));
    }

    #[test]
    fn without_a_metric_in_the_readings_there_is_none_in_the_summary(readings in readings(), start in 0u64..20 * SECOND) {
        let silent: Vec<_> = readings.into_iter().map(|(at, _)| (at, Reading::default())).collect();
        let Some(summary) = summarise(&silent, start, start + 12 * SECOND) else { return Ok(()) };
        let nothing = Telemetry { window_ns: summary.window_ns, readings: summary.readings, ..Telemetry::default() };
        prop_assert_eq!(summary, nothing);
    }

    #[test]
    fn readings_far_from_a_window_change_nothing_but_load(readings in readings(), start in 3 * SECOND..6 * SECOND) {
        let end = start + SECOND;
        let near = |at: u64| at + REACH_NS >= start && at <= end + REACH_NS;
        let close: Vec<_> = readings.iter().filter(|(at, _)| near(*at)).cloned().collect();
        prop_assert_eq!(summarise(&readings, start, end), summarise(&close, start, end));
    }
}
