//! Greedy sampling over logits in host memory.
//!
//! A vocabulary has 32,000 to 130,000 entries and this runs once per token: a plain loop that compares and remembers
//! the index takes up to a tenth of a small model's step. Two passes that the compiler can vectorise don't.

/// Numbers that are compared side by side.
const LANES: usize = 32;

/// The position of the largest number; the first of several equal ones. Numbers that are not comparable (NaN) never win.
pub fn argmax(logits: &[f32]) -> u32 {
    let largest = largest(logits);
    let position = logits.iter().position(|&logit| logit >= largest).unwrap_or(0);
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn largest(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &logit| if logit > largest { logit } else { largest })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_of_equal_numbers_wins_and_nan_never_does() {
        assert_eq!(argmax(&[1.0, 3.0, f32::NAN, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, -5.0]), 2);
        assert_eq!(argmax(&[f32::NAN; 70]), 0);
        assert_eq!(argmax(&[]), 0);
        assert_eq!(argmax(&[0.0; 100]), 0);
    }

    proptest! {
        #[test]
        fn it_is_what_the_plain_loop_finds(logits in proptest::collection::vec(-3i8..3, 1..200)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut best = 0;
            for (i, &logit) in logits.iter().enumerate() {
                if logit > logits[best] {
                    best = i;
                }
            }
            prop_assert_eq!(argmax(&logits) as usize, best);
        }
    }
}
