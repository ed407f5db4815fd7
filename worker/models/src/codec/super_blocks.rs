//! Super-blocks of 256 numbers: the types that llama.cpp mixes in its `q4_k_m` files.
//!
//! Scales and minima of the blocks inside are small integers themselves. All products before an addition are exact in an
//! f32 (11 bits of f16 times 6 of a scale times 5 of a number), so it doesn't matter whether the compiler that built ggml
//! fused multiplications and additions.

use super::half_at;

/// Numbers in a super-block.
pub(super) const SUPER_BLOCK: usize = 256;

/// Numbers that share one scale and one minimum in `Q4_K` and `Q5_K`.
const GROUP: usize = 32;

/// `Q4_K`: scale, minimum, 12 bytes of scales and minima, 128 bytes of nibbles.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 1));
    let (scales, nibbles) = (&block[4..16], &block[16..]);
    for (group, out) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(group, scales, scale, minimum);
        for (out, byte) in out.iter_mut().zip(&nibbles[group / 2 * GROUP..]) {
            *out = scale * f32::from(nibble(*byte, group % 2)) - minimum;
        }
    }
}

/// `Q5_K`: as `Q4_K`, with 32 bytes of fifth bits before the nibbles: bit `g` of byte `i` belongs to number `i` of group `g`.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 1));
    let (scales, fifths, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(group, scales, scale, minimum);
        for ((out, byte), fifth) in out.iter_mut().zip(&nibbles[group / 2 * GROUP..]).zip(fifths) {
            let number = nibble(*byte, group % 2) | ((fifth >> group) & 1) << 4;
            *out = scale * f32::from(number) - minimum;
        }
    }
}

/// `Q6_K`: 128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 scales of a byte, and the scale of those.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK]) {
    let (nibbles, pairs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 104);
    for (at, out) in out.iter_mut().enumerate() {
        // Two halves of 128 numbers, each in four groups of 32.
        let (half, group, number) = (at / 128, at % 128 / GROUP, at % GROUP);
        let low = nibble(nibbles[half * 64 + group % 2 * GROUP + number], group / 2);
        let high = (pairs[half * GROUP + number] >> (2 * group)) & 3;
        let own = i8::from_le_bytes([scales[at / 16]]);
        *out = scale * f32::from(own) * (f32::from(low | high << 4) - 32.0);
    }
}

fn nibble(byte: u8, high: usize) -> u8 {
    if high == 0 { byte & 0x0f } else { byte >> 4 }
}

/// Scale and minimum of a group, which are stored in 6 bits each.
fn scale_and_minimum(group: usize, packed: &[u8], scale: f32, minimum: f32) -> (f32, f32) {
    let (own_scale, own_minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 0x0f) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
    };
    (scale * f32::from(own_scale), minimum * f32::from(own_minimum))
}
