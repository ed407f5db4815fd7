use regatta_core::digest::Digest;
use regatta_core::workload::{Kind, Prompt, Workload};

use super::*;
use crate::backend::fake::{Fake, Script};
use crate::backend::{Backend, Limits};

/// What a session was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Reset,
    Prefill(Vec<Vec<u32>>),
    Sample,
    Decode(Vec<u32>),
    Keep,
    Wait,
}

/// A session that counts up from the prompt's last id and remembers what it was asked.
#[derive(Default)]
struct Scripted {
    calls: Vec<Call>,
    next: Vec<u32>,
    fail_at: Option<usize>,
}

impl Scripted {
    fn note(&mut self, call: Call) -> Result<(), BackendError> {
        self.calls.push(call);
        if self.fail_at == Some(self.calls.len()) { Err(BackendError::engine("scripted")) } else { Ok(()) }
    }
}

impl Session for Scripted {
    fn reset(&mut self) -> Result<(), BackendError> {
        self.note(Call::Reset)
    }

    fn keep(&mut self) -> Result<(), BackendError> {
        self.note(Call::Keep)
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        self.note(Call::Wait)
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError> {
        self.next = prompts.iter().map(|prompt| prompt[prompt.len() - 1]).collect();
        self.note(Call::Prefill(prompts.to_vec()))
    }

    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError> {
        self.next.iter_mut().for_each(|id| *id += 1);
        out.copy_from_slice(&self.next);
        self.note(Call::Sample)
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError> {
        self.note(Call::Decode(tokens.to_vec()))
    }

    fn logits(&self, _: usize) -> Result<Vec<f32>, BackendError> {
        Ok(Vec::new())
    }
}

#[derive(Default)]
struct Seen {
    warmed: u32,
    samples: Vec<Sample>,
    stop_after: Option<usize>,
}

impl Observer for Seen {
    fn warmed(&mut self, repetitions: u32, _: u64) -> Result<(), Halt> {
        self.warmed = repetitions;
        Ok(())
    }

    fn measured(&mut self, sample: Sample) -> Result<(), Halt> {
        self.samples.push(sample);
        if self.stop_after == Some(self.samples.len()) { Err(Halt::Stopped) } else { Ok(()) }
    }
}

fn workload(name: &str, generate: u32, batch: u32) -> Workload {
    let prompt = Prompt::Seeded { seed: 5, tokens: 4 };
    Workload { kind: Kind::Generate, name: name.parse().unwrap(), prompt, generate, batch, replicas: 1 }
}

fn policy(min: u32, max: u32) -> Policy {
    let warmup = Warmup {
        min_repetitions: min,
        max_repetitions: max,
        min_time: Duration::ZERO,
        max_time: Duration::from_mins(1),
        stable_within: 1e9,
    };
    Policy { warmup, ..Policy::default() }
}

fn conditions(policy: &Policy) -> Conditions<'_> {
    Conditions {
        cell: CellHash(Digest::of(b"cell")),
        epoch: Epoch(3),
        pass: 0,
        policy,
        load_ns: 7,
        threads: 2,
        flags: Flags::from_iter([Flag::SyntheticWeights]),
        clock: Clock::Monotonic,
    }
}

const LIMITS: Limits = Limits { vocab: 100, context: 64 };

#[test]
fn a_repetition_is_reset_prefill_and_then_a_sample_for_each_token() {
    let workload = workload("w", 3, 2);
    let input = Input::new(&workload, LIMITS, None).unwrap();
    let (mut session, mut seen, policy) = (Scripted::default(), Seen::default(), policy(3, 3));
    measure(&mut session, &input, None, &conditions(&policy), &mut seen).unwrap();
    let prompts = input.ids().unwrap().to_vec();
    let [a, b] = [prompts[0][3], prompts[1][3]];
    let once = [
        Call::Reset,
        Call::Prefill(prompts),
        Call::Sample,
        Call::Decode(vec![a + 1, b + 1]),
        Call::Sample,
        Call::Decode(vec![a + 2, b + 2]),
        Call::Sample,
        Call::Wait,
    ];
    let expected: Vec<Call> = std::iter::repeat_n(once, 6).flatten().collect();
    assert_eq!(session.calls, expected);
    assert_eq!((seen.warmed, seen.samples.len()), (3, 3));
    let sample = &seen.samples[2];
    assert_eq!(*sample.output, [a + 1, a + 2, a + 3, b + 1, b + 2, b + 3]);
    assert_eq!((sample.key.repetition, sample.key.epoch, sample.warmup_repetitions), (2, Epoch(3), 3));
    assert_eq!(sample.flags, Flags::from_iter([Flag::SyntheticWeights]));
    assert_eq!(sample.times.tokenized, 0);
    assert_eq!(sample.times.end, sample.times.tokens[2]);
    sample.check(&workload).unwrap();
}

#[test]
fn a_prompt_alone_is_prefilled_at_its_depth_and_nothing_is_sampled() {
    let kind = Kind::Prefill { depth: DEPTH_STEP + 1 };
    let workload = Workload { kind, ..workload("w", 0, 2) };
    let limits = Limits { context: 1024, ..LIMITS };
    let input = Input::new(&workload, limits, None).unwrap();
    let (mut session, mut seen, policy) = (Scripted::default(), Seen::default(), policy(1, 1));
    measure(&mut session, &input, None, &Conditions { pass: 2, ..conditions(&policy) }, &mut seen).unwrap();
    let [Call::Reset, Call::Prefill(first), Call::Prefill(second), Call::Keep, rest @ ..] = &session.calls[..] else {
        panic!("{:?}", session.calls)
    };
    assert_eq!((first[1].len(), second[1].len()), (DEPTH_STEP as usize, 1));
    let once = vec![Call::Reset, Call::Prefill(input.ids().unwrap().to_vec()), Call::Wait];
    assert_eq!(rest, vec![once; 4].concat());
    for (at, sample) in (6..).zip(&seen.samples) {
        sample.check(&workload).unwrap();
        assert_eq!((sample.key.repetition, sample.output.len(), sample.times.tokens.len()), (at, 0, 0));
    }
}

#[test]
fn steps_alone_are_fed_what_was_chosen_before_and_waited_for() {
    let prompt = Prompt::Seeded { seed: 5, tokens: 0 };
    let workload = Workload { kind: Kind::ContextSweep, prompt, ..workload("w", 3, 2) };
    let input = Input::new(&workload, LIMITS, None).unwrap();
    let (mut session, mut seen, policy) = (Scripted::default(), Seen::default(), policy(0, 0));
    measure(&mut session, &input, None, &conditions(&policy), &mut seen).unwrap();
    let steps = input.steps.chunks(2).flat_map(|step| [Call::Decode(step.to_vec()), Call::Wait]);
    let once: Vec<Call> = [Call::Reset].into_iter().chain(steps).chain([Call::Wait]).collect();
    assert_eq!(session.calls, vec![once; 3].concat());
    let sample = &seen.samples[0];
    sample.check(&workload).unwrap();
    assert_eq!((sample.prompt_tokens, sample.output.len(), sample.times.tokens.len()), (0, 0, 3));
    assert_eq!(sample.times.end, sample.times.tokens[2]);
}

#[test]
fn times_are_those_of_the_engine() {
    let script = Script { prefill_us: 500.0, decode_us: 3_000.0, ..Script::INSTANT };
    let mut fake = Fake::new(script);
    let workload = workload("w", 5, 1);
    let input = Input::new(&workload, fake.limits(), None).unwrap();
    let (mut seen, policy) = (Seen::default(), policy(1, 1));
    let mut session = fake.open(&input.plan).unwrap();
    measure(&mut *session, &input, None, &conditions(&policy), &mut seen).unwrap();
    for sample in &seen.samples {
        sample.check(&workload).unwrap();
        let metrics = regatta_core::metrics::Metrics::of(sample);
        assert!(metrics.ttft_ns.unwrap() >= 2_000_000, "{metrics:?}");
        assert!(metrics.itl_ns.iter().all(|&itl| itl >= 3_000_000), "{metrics:?}");
        assert!(sample.first_repetition_ns >= 14_000_000);
    }
}

/// What a fake whose time is scripted gives, where its workload has this name.
fn scripted(name: &str, kind: Kind, warmup: u32) -> Vec<Sample> {
    let script = Script { prefill_us: 500.0, decode_us: 3_000.0, scripted_clock: true, ..Script::INSTANT };
    let mut fake = Fake::new(script);
    let prompt = Prompt::Seeded { seed: 5, tokens: if kind == Kind::Generate { 4 } else { 0 } };
    let workload = Workload { kind, prompt, ..workload(name, 5, 1) };
    let input = Input::new(&workload, fake.limits(), None).unwrap();
    let (mut seen, policy) = (Seen::default(), policy(warmup, warmup));
    let conditions = Conditions { clock: fake.clock(), ..conditions(&policy) };
    let mut session = fake.open(&input.plan).unwrap();
    measure(&mut *session, &input, None, &conditions, &mut seen).unwrap();
    assert!(seen.samples.iter().all(|sample| sample.check(&workload).is_ok()));
    seen.samples
}

#[test]
fn times_on_a_scripted_clock_are_exactly_those_of_the_script() {
    for sample in scripted("w", Kind::Generate, 4) {
        assert_eq!((sample.times.prefill_done, &sample.times.tokens[..2]), (2_000_000, &[2_000_000, 5_000_000][..]));
        assert_eq!((sample.times.end, sample.first_repetition_ns), (14_000_000, 14_000_000));
        assert_eq!(sample.flags, Flags::from_iter([Flag::SyntheticWeights]));
    }
}

#[test]
fn a_device_that_is_still_at_work_when_the_clock_stops_was_not_waited_for() {
    let hasty = scripted("fault-no-sync", Kind::Generate, 4);
    // Five calls that return at once.
    assert!(hasty.iter().all(|sample| sample.flags.contains(Flag::NotWaitedFor) && sample.times.end == 5_000));
    let steps = scripted("fault-no-sync", Kind::Decode { depth: 0 }, 4);
    assert!(steps.iter().all(|sample| !sample.flags.contains(Flag::NotWaitedFor)), "the loop waits after each step");
}

#[test]
fn a_warm_up_that_never_settles_ends_at_its_limit_and_is_told() {
    let mut fake = Fake::new(Script { decode_us: 1_000.0, scripted_clock: true, ..Script::INSTANT });
    let workload = Workload {
        kind: Kind::ContextSweep,
        prompt: Prompt::Seeded { seed: 5, tokens: 0 },
        ..workload("fault-drift", 3, 1)
    };
    let input = Input::new(&workload, fake.limits(), None).unwrap();
    let warmup = Warmup { stable_within: 0.02, ..policy(4, 20).warmup };
    let (mut seen, policy) = (Seen::default(), Policy { warmup, ..Policy::default() });
    let conditions = Conditions { clock: fake.clock(), ..conditions(&policy) };
    measure(&mut *fake.open(&input.plan).unwrap(), &input, None, &conditions, &mut seen).unwrap();
    assert_eq!((seen.warmed, seen.samples.len()), (20, 3));
    assert!(seen.samples.iter().all(|sample| sample.flags.contains(Flag::WarmupNotStable)));
}

#[test]
fn a_failing_engine_ends_the_cell_with_its_words() {
    let workload = workload("w", 3, 1);
    let input = Input::new(&workload, LIMITS, None).unwrap();
    let policy = policy(1, 1);
    for call in 1..=16 {
        let mut session = Scripted { fail_at: Some(call), ..Scripted::default() };
        let mut seen = Seen::default();
        let halt = measure(&mut session, &input, None, &conditions(&policy), &mut seen).unwrap_err();
        assert!(matches!(&halt, Halt::Failed(error) if error.detail == "scripted"), "{halt:?}");
        assert_eq!(seen.samples.len(), 0);
    }
}

#[test]
fn a_stop_is_heeded_after_the_repetition() {
    let workload = workload("w", 1, 1);
    let input = Input::new(&workload, LIMITS, None).unwrap();
    let (policy, mut seen) = (policy(1, 1), Seen { stop_after: Some(1), ..Seen::default() });
    let halt = measure(&mut Scripted::default(), &input, None, &conditions(&policy), &mut seen).unwrap_err();
    assert!(matches!(halt, Halt::Stopped));
    assert_eq!(seen.samples.len(), 1);
}

#[test]
fn an_output_that_changes_is_flagged() {
    let mut fake = Fake::new(Script::INSTANT);
    let workload = workload("fault-output", 4, 1);
    let input = Input::new(&workload, fake.limits(), None).unwrap();
    let (policy, mut seen) = (policy(1, 1), Seen::default());
    measure(&mut *fake.open(&input.plan).unwrap(), &input, None, &conditions(&policy), &mut seen).unwrap();
    assert!(seen.samples.iter().all(|sample| sample.flags.contains(Flag::OutputChanged)));
}

#[test]
fn a_workload_without_generation_is_a_prefill() {
    let workload = workload("w", 0, 1);
    let input = Input::new(&workload, LIMITS, None).unwrap();
    let (policy, mut seen) = (policy(0, 0), Seen::default());
    measure(&mut Scripted::default(), &input, None, &conditions(&policy), &mut seen).unwrap();
    let sample = &seen.samples[0];
    assert_eq!((sample.times.end, sample.output.len()), (sample.times.prefill_done, 0));
    assert!(sample.flags.contains(Flag::WarmupNotStable), "nothing was warmed up");
}

#[test]
fn warm_up_ends_when_it_is_stable_or_at_its_limits() {
    let policy = Warmup {
        min_repetitions: 4,
        max_repetitions: 6,
        min_time: Duration::from_nanos(500),
        max_time: Duration::from_micros(5),
        stable_within: 0.02,
    };
    let judge = |durations: &[u64]| judge(&policy, durations);
    assert_eq!(judge(&[]), Judgement::More);
    assert_eq!(judge(&[200, 200, 200]), Judgement::More, "too few");
    assert_eq!(judge(&[100, 100, 100, 100]), Judgement::More, "too short");
    assert_eq!(judge(&[900, 100, 101, 102]), Judgement::Done { stable: true });
    assert_eq!(judge(&[900, 100, 101, 104]), Judgement::More, "not within 2 %");
    assert_eq!(judge(&[900, 100, 110, 120, 130, 140]), Judgement::Done { stable: false });
    assert_eq!(judge(&[4_000, 1_000]), Judgement::Done { stable: false }, "out of time");
}

#[test]
fn a_text_is_tokenised_and_detokenised_on_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let words: serde_json::Map<_, _> = (0..20).map(|id| (format!("w{id}"), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let prompt = Prompt::Text { text: "w5 w7".to_owned(), tokens: Some(5) };
    let workload = Workload { prompt, ..workload("w", 2, 2) };
    let input = Input::new(&workload, LIMITS, Some(&tokenizer)).unwrap();
    let (mut session, mut seen, policy) = (Scripted::default(), Seen::default(), policy(1, 1));
    measure(&mut session, &input, Some(&tokenizer), &conditions(&policy), &mut seen).unwrap();
    assert_eq!(session.calls[1], Call::Prefill(vec![vec![5, 7, 5, 7, 5]; 2]));
    for sample in &seen.samples {
        sample.check(&workload).unwrap();
        assert!(sample.times.tokenized > 0 && sample.times.prefill_start >= sample.times.tokenized);
        assert!(sample.times.end > sample.times.tokens[1]);
        assert_eq!((sample.prompt_tokens, &*sample.output), (5, &[6, 7, 6, 7][..]));
    }
}
