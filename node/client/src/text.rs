//! Bytes in JSON: what is UTF-8 stands as `key` or `value`, anything else as `key_base64` or `value_base64`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How some bytes stand in JSON: which name the field gets, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytesAsText {
    /// Whether the field's name ends in `_base64`.
    pub base64: bool,
    /// The text itself.
    pub text: String,
}

impl BytesAsText {
    /// The text form of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { base64: false, text: text.to_owned() },
            Err(_) => Self { base64: true, text: STANDARD.encode(bytes) },
        }
    }

    /// The name that a field called `name` has for these bytes.
    pub fn field(&self, name: &str) -> String {
        if self.base64 { format!("{name}_base64") } else { name.to_owned() }
    }
}

/// The bytes of a field that may stand in either form; `None` when both or neither are there, or the base64 is none.
pub(crate) fn read(text: Option<String>, base64: Option<String>) -> Option<Vec<u8>> {
    match (text, base64) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(base64)) => STANDARD.decode(base64).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_other_bytes_become_base64() {
        let text = BytesAsText::new("grüße".as_bytes());
        assert_eq!((text.field("key").as_str(), text.text.as_str()), ("key", "grüße"));
        let bytes = BytesAsText::new(&[0xff, 0x00]);
        assert_eq!((bytes.field("key").as_str(), bytes.text.as_str()), ("key_base64", "/wA="));
        assert_eq!(read(None, Some("/wA=".into())), Some(vec![0xff, 0]));
        assert_eq!(read(Some("a".into()), Some("YQ==".into())), None);
    }
}
