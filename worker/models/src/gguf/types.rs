//! How GGUF stores the numbers of a tensor: one after another, or in blocks that share a scale.

use std::fmt;

/// Numbers to a block, and bytes to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Numbers in one block; a row holds a whole number of blocks.
    pub elements: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

macro_rules! types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $elements:literal, $bytes:literal;)*) => {
        /// A tensor type of GGUF. Numbers that are missing here were withdrawn by the format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum GgmlType {
            $($(#[$doc])* $variant,)*
        }

        impl GgmlType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type that files write as `id`.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The number that files write.
            pub fn id(self) -> u32 {
                match self {
                    $(Self::$variant => $id,)*
                }
            }

            /// The name that llama.cpp shows.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The size of a block.
            pub fn block(self) -> Block {
                match self {
                    $(Self::$variant => Block { elements: $elements, bytes: $bytes },)*
                }
            }
        }
    };
}

types! {
    /// 32-bit float.
    F32 = 0, "F32", 1, 4;
    /// 16-bit IEEE float.
    F16 = 1, "F16", 1, 2;
    /// 4 bits with a scale.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4 bits with scale and minimum.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5 bits with a scale.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5 bits with scale and minimum.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8 bits with a scale.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 8 bits with scale and sum; engines use it for activations.
    Q8_1 = 9, "Q8_1", 32, 36;
    /// 2 bits in super-blocks.
    Q2K = 10, "Q2_K", 256, 84;
    /// 3 bits in super-blocks.
    Q3K = 11, "Q3_K", 256, 110;
    /// 4 bits in super-blocks.
    Q4K = 12, "Q4_K", 256, 144;
    /// 5 bits in super-blocks.
    Q5K = 13, "Q5_K", 256, 176;
    /// 6 bits in super-blocks.
    Q6K = 14, "Q6_K", 256, 210;
    /// 8 bits in super-blocks; engines use it for activations.
    Q8K = 15, "Q8_K", 256, 292;
    /// About 2.1 bits, from a codebook.
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    /// About 2.3 bits, from a codebook.
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    /// About 3.1 bits, from a codebook.
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    /// About 1.6 bits, from a codebook.
    Iq1S = 19, "IQ1_S", 256, 50;
    /// 4 bits, not evenly spaced.
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    /// About 3.4 bits, from a codebook.
    Iq3S = 21, "IQ3_S", 256, 110;
    /// About 2.6 bits, from a codebook.
    Iq2S = 22, "IQ2_S", 256, 82;
    /// 4 bits, not evenly spaced, in super-blocks.
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    /// 8-bit integer.
    I8 = 24, "I8", 1, 1;
    /// 16-bit integer.
    I16 = 25, "I16", 1, 2;
    /// 32-bit integer.
    I32 = 26, "I32", 1, 4;
    /// 64-bit integer.
    I64 = 27, "I64", 1, 8;
    /// 64-bit float.
    F64 = 28, "F64", 1, 8;
    /// About 1.75 bits, from a codebook.
    Iq1M = 29, "IQ1_M", 256, 56;
    /// 16-bit brain float.
    Bf16 = 30, "BF16", 1, 2;
    /// Ternary, about 1.7 bits.
    Tq1_0 = 34, "TQ1_0", 256, 54;
    /// Ternary, about 2.1 bits.
    Tq2_0 = 35, "TQ2_0", 256, 66;
    /// 4-bit float with a shared exponent.
    Mxfp4 = 39, "MXFP4", 32, 17;
    /// 4-bit float with 8-bit float scales.
    Nvfp4 = 40, "NVFP4", 64, 36;
    /// 1 bit with a scale.
    Q1_0 = 41, "Q1_0", 128, 18;
    /// 2 bits with a scale.
    Q2_0 = 42, "Q2_0", 64, 18;
}

impl GgmlType {
    /// Bytes that a tensor of these dimensions takes, row length first; nothing where that can't be: a dimension of 0,
    /// a row that is no whole number of blocks, or a size beyond what engines count in (2⁶³ - 1).
    pub fn size(self, dims: &[u64]) -> Option<u64> {
        let Block { elements, bytes } = self.block();
        let total = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let row = *dims.first()?;
        if total == 0 || i64::try_from(total).is_err() || row % elements != 0 {
            return None;
        }
        (total / elements).checked_mul(bytes).filter(|&size| i64::try_from(size).is_ok())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
