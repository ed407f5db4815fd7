//! Token identity: where two outputs of the same work part.
//!
//! Nothing of this is stored. The ids themselves are, with each sample, so where outputs part is worked out whenever it is
//! asked for, by this code: what is compared with what may change, and old runs profit from it.
//!
//! Repetitions of a cell have to agree, in one worker process and over all of them: a backend that changes its output is
//! flagged. Two backends need not, because they add up in another order, and one token that is nearly as likely as another is
//! enough to part for good. Where they part is information: `first differing token: 17 of 128`.

use std::fmt;

/// How far two outputs agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The first tokens of each sequence that are the same in both.
    pub same: usize,
    /// Tokens of each sequence.
    pub of: usize,
}

impl Agreement {
    /// Of two outputs, sequence after sequence, of `batch` sequences each; `None` where they can't be held against each other,
    /// because they are not of the same length or empty.
    pub fn of(one: &[u32], other: &[u32], batch: u32) -> Option<Self> {
        let length = one.len() / (batch.max(1) as usize);
        if one.len() != other.len() || length == 0 {
            return None;
        }
        let leading = |(a, b): (&[u32], &[u32])| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let sequences = one.chunks(length).zip(other.chunks(length));
        Some(Self { same: sequences.map(leading).min()?, of: length })
    }

    /// Whether they don't part at all.
    pub fn is_full(self) -> bool {
        self.same == self.of
    }

    /// The first token that differs in any sequence, counted from 1; `None` where none does.
    pub fn first_differing(self) -> Option<usize> {
        (!self.is_full()).then_some(self.same + 1)
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first_differing() {
            None => write!(f, "all {} tokens the same", self.of),
            Some(token) => write!(f, "first differing token: {token} of {}", self.of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_token_is_that_of_any_sequence() {
        let one = [1, 2, 3, 4, 5, 6];
        let all = Agreement::of(&one, &one, 2).unwrap();
        assert_eq!((all.first_differing(), all.to_string().as_str()), (None, "all 3 tokens the same"));
        // The second sequence parts at its second token, the first one at its third.
        let parted = Agreement::of(&one, &[1, 2, 9, 4, 9, 6], 2).unwrap();
        assert_eq!((parted.same, parted.of, parted.first_differing()), (1, 3, Some(2)));
        assert_eq!(parted.to_string(), "first differing token: 2 of 3");
        let one_sequence = Agreement::of(&one, &[1, 2, 9, 4, 9, 6], 1).unwrap();
        assert_eq!(one_sequence.to_string(), "first differing token: 3 of 6");
        assert_eq!(Agreement::of(&one, &[9; 6], 1).unwrap().first_differing(), Some(1));
    }

    #[test]
    fn what_is_not_of_the_same_length_is_not_compared() {
        assert_eq!(Agreement::of(&[1, 2], &[1, 2, 3], 1), None);
        assert_eq!(Agreement::of(&[], &[], 1), None);
        assert_eq!(Agreement::of(&[1], &[1], 2), None, "less than a token for each sequence");
    }
}
