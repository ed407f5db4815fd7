//! Numbers to bytes and back, in the types that are written and converted here, bit for bit as ggml does it.
//!
//! All arithmetic is IEEE single precision in a fixed order, so every platform gets the same bytes.

mod super_blocks;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::gguf::GgmlType;

/// The types that [`encode`] can write.
pub const WRITABLE: [GgmlType; 4] = [GgmlType::F32, GgmlType::F16, GgmlType::Bf16, GgmlType::Q8_0];

/// The types that [`decode`] can read.
pub const READABLE: [GgmlType; 10] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::Bf16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q8_0,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
];

/// Numbers in a block of the quantised types here.
const BLOCK: usize = 32;

/// The names of `kinds`, for messages.
pub fn names(kinds: &[GgmlType]) -> Vec<&'static str> {
    kinds.iter().map(|kind| kind.as_str()).collect()
}

/// Appends `numbers` as `kind`; false where the type isn't [`WRITABLE`]. The numbers must be whole blocks.
#[must_use]
pub fn encode(kind: GgmlType, numbers: &[f32], out: &mut Vec<u8>) -> bool {
    match kind {
        GgmlType::F32 => append(out, numbers.iter().map(|number| number.to_le_bytes())),
        GgmlType::F16 => encode_halves::<f16>(numbers, out),
        GgmlType::Bf16 => encode_halves::<bf16>(numbers, out),
        GgmlType::Q8_0 => numbers.as_chunks::<BLOCK>().0.iter().for_each(|block| encode_q8_0(block, out)),
        _ => return false,
    }
    true
}

/// Numbers that are turned into halves at a time: the processor does several with one instruction.
const HALVES: usize = 1024;

fn encode_halves<H: Copy + Default>(numbers: &[f32], out: &mut Vec<u8>)
where
    [H]: HalfFloatSliceExt,
{
    let mut halves = [H::default(); HALVES];
    for numbers in numbers.chunks(HALVES) {
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        append(out, halves.reinterpret_cast().iter().map(|bits| bits.to_le_bytes()));
    }
}

/// Appends in one go: byte by byte takes several times as long.
fn append<const N: usize>(out: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = [u8; N]>) {
    let start = out.len();
    out.resize(start + N * numbers.len(), 0);
    for (place, number) in out[start..].as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = number;
    }
}

/// ggml's `quantize_row_q8_0_ref`: the scale is the largest magnitude over 127, kept as f16, but the numbers are divided
/// by the scale before it was rounded.
fn encode_q8_0(numbers: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = numbers.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    for number in numbers {
        #[expect(clippy::cast_possible_truncation, reason = "the quotient lies in -127 to 127; the cast saturates")]
        let quantised = (number * inverse).round() as i8;
        out.extend(quantised.to_le_bytes());
    }
}

/// Reads numbers of type `kind` from `bytes`, which must be whole blocks, into `out`, which must be as long; false where
/// the type isn't [`READABLE`].
#[must_use]
pub fn decode(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> bool {
    match kind {
        GgmlType::F32 => decode_plain(bytes, out, f32::from_le_bytes),
        GgmlType::F16 => decode_plain(bytes, out, |number| f16::from_le_bytes(number).to_f32()),
        GgmlType::Bf16 => decode_plain(bytes, out, |number| bf16::from_le_bytes(number).to_f32()),
        GgmlType::Q4_0 => decode_blocks(bytes, out, decode_q4_0),
        GgmlType::Q4_1 => decode_blocks(bytes, out, decode_q4_1),
        GgmlType::Q5_0 => decode_blocks(bytes, out, decode_q5_0),
        GgmlType::Q8_0 => decode_blocks(bytes, out, decode_q8_0),
        GgmlType::Q4K => decode_blocks(bytes, out, super_blocks::q4_k),
        GgmlType::Q5K => decode_blocks(bytes, out, super_blocks::q5_k),
        GgmlType::Q6K => decode_blocks(bytes, out, super_blocks::q6_k),
        _ => return false,
    }
    true
}

fn decode_plain<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (&bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = number(bytes);
    }
}

fn decode_blocks<const N: usize, const M: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; N], &mut [f32; M]),
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

/// The f16 at the start of the block, `at` halves in.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[2 * at], block[2 * at + 1]]).to_f32()
}

/// The low halves of the bytes are the first 16 numbers, the high halves the last 16.
fn nibbles(bytes: &[u8], mut number: impl FnMut(usize, u8)) {
    for (index, byte) in bytes.iter().enumerate() {
        number(index, byte & 0x0f);
        number(index + BLOCK / 2, byte >> 4);
    }
}

fn decode_q4_0(block: &[u8; 18], out: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..], |index, nibble| out[index] = (f32::from(nibble) - 8.0) * scale);
}

/// The product of a nibble and an f16 is exact in an f32, so it doesn't matter whether the compiler that built ggml fused
/// the multiplication and the addition.
fn decode_q4_1(block: &[u8; 20], out: &mut [f32; BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 1));
    nibbles(&block[4..], |index, nibble| out[index] = f32::from(nibble) * scale + minimum);
}

/// The fifth bits of all 32 numbers stand together, before the nibbles.
fn decode_q5_0(block: &[u8; 22], out: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    let fifths = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], |index, nibble| {
        let number = if fifths >> index & 1 == 1 { nibble | 16 } else { nibble };
        out[index] = (f32::from(number) - 16.0) * scale;
    });
}

fn decode_q8_0(block: &[u8; 34], out: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    for (byte, out) in block[2..].iter().zip(out) {
        *out = f32::from(i8::from_le_bytes([*byte])) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_of(kind: GgmlType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; usize::try_from(kind.block().elements).unwrap()];
        assert!(decode(kind, bytes, &mut out));
        out
    }

    #[test]
    fn four_bit_blocks_decode_as_in_ggml() {
        let mut q4_0 = f16::from_f32(0.5).to_le_bytes().to_vec();
        q4_0.extend([0x2f; 16]);
        let out = block_of(GgmlType::Q4_0, &q4_0);
        assert_eq!((out[0], out[16]), (3.5, -3.0));

        let mut q4_1 = f16::from_f32(0.5).to_le_bytes().to_vec();
        q4_1.extend(f16::from_f32(-1.0).to_le_bytes());
        q4_1.extend([0x2f; 16]);
        let out = block_of(GgmlType::Q4_1, &q4_1);
        assert_eq!((out[0], out[16]), (6.5, 0.0));
    }

    #[test]
    fn the_fifth_bit_is_added() {
        let mut q5_0 = f16::from_f32(0.5).to_le_bytes().to_vec();
        q5_0.extend((1u32 | 1 << 31).to_le_bytes());
        q5_0.extend([0x2f; 16]);
        let out = block_of(GgmlType::Q5_0, &q5_0);
        assert_eq!((out[0], out[1], out[16], out[31]), (7.5, -0.5, -7.0, 1.0));
    }

    /// The worker's tests hold whole super-blocks against ggml; here are single numbers, worked out by hand.
    #[test]
    fn super_blocks_decode_as_in_ggml() {
        let mut q4_k = f16::from_f32(0.5).to_le_bytes().to_vec();
        q4_k.extend(f16::from_f32(0.25).to_le_bytes());
        // Groups 0 to 3: scale 3, minimum 2. Groups 4 to 7: scale 5, minimum 1, with no high bits.
        q4_k.extend([3, 3, 3, 3, 2, 2, 2, 2, 0x15, 0x15, 0x15, 0x15]);
        q4_k.extend([0x2f; 128]);
        let out = block_of(GgmlType::Q4K, &q4_k);
        assert_eq!((out[0], out[32], out[128], out[160]), (22.0, 2.5, 37.25, 4.75));

        let mut q5_k = q4_k[..16].to_vec();
        q5_k.extend([0b0000_0010; 32]);
        q5_k.extend([0x2f; 128]);
        let out = block_of(GgmlType::Q5K, &q5_k);
        assert_eq!((out[0], out[32]), (22.0, 26.5));

        let mut q6_k = vec![0x2f; 128];
        q6_k.extend([0b1000_0001; 64]);
        q6_k.extend([2; 16]);
        q6_k.extend(f16::from_f32(0.5).to_le_bytes());
        let out = block_of(GgmlType::Q6K, &q6_k);
        assert_eq!((out[0], out[32], out[64], out[96]), (-1.0, -17.0, -30.0, 2.0));
    }

    #[test]
    fn eight_bit_blocks_come_back_within_half_a_step() {
        let numbers: Vec<f32> = (0u8..32).map(|i| f32::from(i) / 7.0 - 2.0).collect();
        let mut bytes = Vec::new();
        assert!(encode(GgmlType::Q8_0, &numbers, &mut bytes));
        assert_eq!(bytes.len(), 34);
        let step = half_at(&bytes, 0);
        for (number, back) in numbers.iter().zip(block_of(GgmlType::Q8_0, &bytes)) {
            assert!((number - back).abs() <= step * 0.51, "{number} became {back}");
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        let mut bytes = Vec::new();
        assert!(encode(GgmlType::Q8_0, &[0.0; BLOCK], &mut bytes));
        assert_eq!(bytes, [0; 34]);
    }

    #[test]
    fn other_types_are_declined() {
        assert!(!encode(GgmlType::Q4K, &[], &mut Vec::new()));
        assert!(!decode(GgmlType::Iq1M, &[], &mut []));
    }
}
