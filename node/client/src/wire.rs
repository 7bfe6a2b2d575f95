//! How ids and states stand in JSON: as text. For `#[serde(with = …)]`.

use std::fmt::Display;
use std::str::FromStr;

use annulus_core::map::MemberState;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// A value as its text.
pub(crate) mod text {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value that may be absent, as its text or `null`.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Values as a list of their texts.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// A member's state as its name.
pub(crate) mod state {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(state: &MemberState, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state_text(*state))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemberState, D::Error> {
        let text = String::deserialize(deserializer)?;
        state_of(&text).ok_or_else(|| D::Error::custom(format!("member state `{text}` is not one that we know")))
    }
}

/// The name of a member's state: `joining`, `active`, `leaving` or `draining`.
pub fn state_text(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "joining",
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
        MemberState::Draining => "draining",
    }
}

/// The state that has this name.
pub(crate) fn state_of(text: &str) -> Option<MemberState> {
    let all = [MemberState::Joining, MemberState::Active, MemberState::Leaving, MemberState::Draining];
    all.into_iter().find(|state| state_text(*state) == text)
}
