//! Many tests at once: with hundreds of cells some look changed by chance.

/// The values of `p` adjusted by Benjamini and Hochberg, in the same order: those at or below `q` are, taken together, wrong in
/// a share of at most `q` of cases.
pub fn adjusted(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let mut adjusted = vec![1.0; p.len()];
    let mut least: f64 = 1.0;
    for (after, &at) in order.iter().enumerate() {
        let rank = p.len() - after;
        least = least.min(p[at] * p.len() as f64 / rank as f64);
        adjusted[at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_test_is_taken_as_it_is() {
        assert_eq!(adjusted(&[0.03]), [0.03]);
        assert!(adjusted(&[]).is_empty());
    }

    proptest! {
        /// The procedure as its authors wrote it: the largest rank whose value is at most rank / tests · q, and all before it.
        #[test]
        fn what_is_kept_is_what_the_procedure_keeps(p in prop::collection::vec(0.0f64..1.0, 1..30), q in 0.01f64..0.5) {
            let adjusted = adjusted(&p);
            let mut sorted = p.clone();
            sorted.sort_by(f64::total_cmp);
            let limit = |rank: usize| q * rank as f64 / p.len() as f64;
            let kept = (1..=p.len()).rev().find(|&rank| sorted[rank - 1] <= limit(rank));
            let most = kept.map_or(-1.0, |rank| sorted[rank - 1]);
            for (p, adjusted) in p.iter().zip(adjusted) {
                prop_assume!((adjusted - q).abs() > 1e-9);
                prop_assert_eq!(*p <= most, adjusted <= q);
            }
        }
    }
}
