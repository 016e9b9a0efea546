//! The parameters of a request, read as the real server reads them (apimachinery `pkg/runtime/
//! conversion.go`): of one that comes twice the first counts. It knows no parameter by name.

use std::collections::BTreeMap;

use super::status::ApiError;

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Read what stands behind the question mark.
    pub fn parse(text: &str) -> Query {
        let mut parameters = BTreeMap::new();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()).into_owned() {
            parameters.entry(key).or_insert(value);
        }
        Query(parameters)
    }

    /// A parameter that is there and not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// A switch: all but `0` and `false` turns it on, an empty value too.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.0.get(key)?;
        Some(value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}
