//! Metadata values.

/// The type numbers that files write for strings and arrays; those of scalars are beside them below.
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

macro_rules! scalars {
    ($($(#[$doc:meta])* $variant:ident($type:ty) = $id:literal;)*) => {
        /// A value of the metadata.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $($(#[$doc])* $variant($type),)*
            /// True or false.
            Bool(bool),
            /// Text.
            String(String),
            /// Many values of one type.
            Array(Array),
        }

        /// Values of one type. Arrays of arrays don't occur: llama.cpp refuses them too.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $($(#[$doc])* $variant(Vec<$type>),)*
            /// True or false.
            Bool(Vec<bool>),
            /// Text.
            String(Vec<String>),
        }

        impl Value {
            /// Reads the scalar that has type number `id` from its little-endian bytes.
            pub(super) fn scalar(id: u32, bytes: &[u8]) -> Option<Self> {
                Some(match id {
                    $($id => Self::$variant(<$type>::from_le_bytes(bytes.try_into().ok()?)),)*
                    BOOL => Self::Bool(*bytes.first()? != 0),
                    _ => return None,
                })
            }

            /// The type number.
            pub(super) fn id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            /// Appends the value, without its type number, as files hold it.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) => out.extend(value.to_le_bytes()),)*
                    Self::Bool(value) => out.push(u8::from(*value)),
                    Self::String(value) => write_string(value, out),
                    Self::Array(array) => array.write(out),
                }
            }
        }

        impl Array {
            /// Reads the elements, of type number `id`, from their little-endian bytes.
            pub(super) fn scalars(id: u32, bytes: &[u8]) -> Option<Self> {
                Some(match id {
                    $($id => {
                        let (elements, _) = bytes.as_chunks();
                        Self::$variant(elements.iter().map(|&element| <$type>::from_le_bytes(element)).collect())
                    })*
                    BOOL => Self::Bool(bytes.iter().map(|&byte| byte != 0).collect()),
                    _ => return None,
                })
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(elements) => elements.len(),)*
                    Self::Bool(elements) => elements.len(),
                    Self::String(elements) => elements.len(),
                }
            }

            fn element_id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                }
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.element_id().to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Self::$variant(elements) => elements.iter().for_each(|element| out.extend(element.to_le_bytes())),)*
                    Self::Bool(elements) => out.extend(elements.iter().map(|&element| u8::from(element))),
                    Self::String(elements) => elements.iter().for_each(|element| write_string(element, out)),
                }
            }
        }

        /// Bytes of one scalar that has type number `id`; nothing for strings, arrays and unknown types.
        pub(super) fn scalar_size(id: u32) -> Option<u64> {
            match id {
                $($id => Some(size_of::<$type>() as u64),)*
                BOOL => Some(1),
                _ => None,
            }
        }
    };
}

const BOOL: u32 = 7;

scalars! {
    /// 8 bits, unsigned.
    U8(u8) = 0;
    /// 8 bits, signed.
    I8(i8) = 1;
    /// 16 bits, unsigned.
    U16(u16) = 2;
    /// 16 bits, signed.
    I16(i16) = 3;
    /// 32 bits, unsigned.
    U32(u32) = 4;
    /// 32 bits, signed.
    I32(i32) = 5;
    /// 32-bit float.
    F32(f32) = 6;
    /// 64 bits, unsigned.
    U64(u64) = 10;
    /// 64 bits, signed.
    I64(i64) = 11;
    /// 64-bit float.
    F64(f64) = 12;
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// The value as an unsigned number, whichever integer type it is stored in.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a 32-bit float.
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            Self::F32(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
