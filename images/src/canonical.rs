//! One spelling for one JSON value: members sorted by name, no white space. What is named by the
//! digest of its bytes is written through here, whatever features serde_json was built with.

use serde::Serialize;
use serde_json::Value;

/// The canonical bytes of a value: members sorted by their names' bytes, no white space, strings and
/// numbers as serde_json writes them.
///
/// # Errors
/// What serde reports for a value that has no JSON form.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    write(&serde_json::to_value(value)?, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            serde_json::to_writer(&mut *out, value)
        }
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (position, (name, member)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_order_of_members_does_not_change_the_bytes() {
        let a: Value =
            serde_json::from_str(r#"{"b": [1, {"z": null, "a": "x\n"}], "a": 18014398509481983}"#).unwrap();
        let b: Value =
            serde_json::from_str(r#"{"a":18014398509481983,"b":[1,{"a":"x\n","z":null}]}"#).unwrap();
        assert_eq!(to_vec(&a).unwrap(), to_vec(&b).unwrap());
        assert_eq!(
            String::from_utf8(to_vec(&a).unwrap()).unwrap(),
            r#"{"a":18014398509481983,"b":[1,{"a":"x\n","z":null}]}"#
        );
    }
}
