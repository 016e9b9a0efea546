//! The part of kubectl's JSONPath that printer columns use: `.a.b`, `.a['b']`, `[0]`, `[*]`,
//! `[?(@.x=="y")]`, `\.` in names. It never computes.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    Filter(Vec<String>, bool, Value),
}

/// All values at `path` in `object`; a path that can't be read finds nothing.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else {
        return Vec::new();
    };
    let mut found = vec![object];
    for step in &steps {
        found = found.into_iter().flat_map(|value| apply(value, step)).collect();
    }
    found
}

fn apply<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(i) => value.get(i).into_iter().collect(),
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Filter(path, equal, wanted) => {
            let matches = |item: &&Value| {
                let mut at = *item;
                for step in path {
                    at = &at[step.as_str()];
                }
                (at == wanted) == *equal
            };
            value.as_array().into_iter().flatten().filter(matches).collect()
        }
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(&after[..end])?);
            rest = &after[end + 1..];
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let (name, used) = field(after);
            if name.is_empty() && after.is_empty() {
                break;
            }
            if name.is_empty() && !after.starts_with('[') {
                return None;
            }
            if !name.is_empty() {
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            }
            rest = &after[used..];
        }
    }
    Some(steps)
}

fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ']') => return Some(i),
            _ => {}
        }
    }
    None
}

fn field(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return (name, i),
            c => {
                name.push(c);
                escaped = false;
            }
        }
    }
    (name, text.len())
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        let (left, equal, right) = match condition.split_once("==") {
            Some((l, r)) => (l, true, r),
            None => condition.split_once("!=").map(|(l, r)| (l, false, r))?,
        };
        let path = left
            .trim()
            .strip_prefix("@.")?
            .split('.')
            .map(str::to_owned)
            .collect();
        return Some(Step::Filter(path, equal, literal(right.trim())?));
    }
    match literal(inner)? {
        Value::String(name) => Some(Step::Field(name)),
        Value::Number(n) => Some(Step::Index(usize::try_from(n.as_u64()?).ok()?)),
        _ => None,
    }
}

fn literal(text: &str) -> Option<Value> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return Some(Value::String(inner.to_owned()));
        }
    }
    serde_json::from_str(text).ok()
}
