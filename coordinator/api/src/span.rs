//! Lengths of time as people write them in a manifest: `90s`, `15m`, `4h`, `2d`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A length of time in whole seconds, written with the units `d`, `h`, `m`, `s` in falling order.
///
/// At most 366 days. On the wire it is a string of at most 32 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpanText(Duration);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no length of time: {why}; write it like 90s, 15m, 4h or 1h30m, at most 366d")]
pub struct SpanTextError {
    text: String,
    why: &'static str,
}

impl SpanText {
    const MAX_SECS: u64 = 366 * 86_400;

    /// A span of whole seconds; longer ones are cut to 366 days.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(if secs > Self::MAX_SECS {
            Self::MAX_SECS
        } else {
            secs
        }))
    }

    /// The span as the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<SpanText> for Duration {
    fn from(span: SpanText) -> Self {
        span.0
    }
}

impl fmt::Display for SpanText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, secs) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            let n = left / secs;
            left %= secs;
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SpanText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpanText {
    type Err = SpanTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| SpanTextError {
            text: text.chars().take(40).collect(),
            why,
        };
        if text.is_empty() || text.len() > 32 {
            return Err(bad("it is empty or longer than 32 characters"));
        }
        let (mut total, mut number, mut last_unit) = (0u64, None::<u64>, u64::MAX);
        for c in text.chars() {
            if let Some(digit) = c.to_digit(10) {
                let n = number
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(u64::from(digit)));
                number = Some(n.ok_or_else(|| bad("the number is too large"))?);
                continue;
            }
            let unit = match c {
                'd' => 86_400,
                'h' => 3_600,
                'm' => 60,
                's' => 1,
                _ => return Err(bad("its units are d, h, m and s")),
            };
            if unit >= last_unit {
                return Err(bad("its units must fall: d, h, m, s, each once"));
            }
            last_unit = unit;
            let n = number
                .take()
                .ok_or_else(|| bad("a unit has no number before it"))?;
            total = n
                .checked_mul(unit)
                .and_then(|secs| total.checked_add(secs))
                .ok_or_else(|| bad("it is too large"))?;
        }
        if number.is_some() {
            return Err(bad("the last number has no unit"));
        }
        if total > Self::MAX_SECS {
            return Err(bad("it is longer than 366 days"));
        }
        Ok(Self::from_secs(total))
    }
}

impl TryFrom<String> for SpanText {
    type Error = SpanTextError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpanText> for String {
    fn from(span: SpanText) -> Self {
        span.to_string()
    }
}

impl JsonSchema for SpanText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SpanText".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 32,
            "minLength": 2,
            "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
        })
    }

    fn inline_schema() -> bool {
        true
    }
}
