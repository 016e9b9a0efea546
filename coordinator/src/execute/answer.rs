//! What came over the wire for an eviction, put into the form in which the planner reads it. Never
//! decides what an answer means: that is [`Answer::read`].

use std::time::Duration;

use drydock_plan::{Answer, RawAnswer, Reason};
use kube::core::Status;

/// The reason that kube gives an answer whose body was no Status.
const NO_STATUS: &str = "Failed to parse error data";

/// The class of an eviction's answer. `pause` is what the server's `Retry-After` header asked for, if
/// it had one: kube does not hand on headers.
#[must_use]
pub fn read<T>(result: &Result<T, kube::Error>, pause: Option<Duration>) -> Answer {
    match result {
        Ok(_) => Answer::Accepted,
        Err(kube::Error::Api(status)) => of_status(status, pause),
        Err(other) => Answer::read(RawAnswer {
            message: &other.to_string(),
            ..RawAnswer::default()
        }),
    }
}

fn of_status(status: &Status, pause: Option<Duration>) -> Answer {
    let details = status.details.as_ref();
    let causes: Vec<String> = details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| cause.reason.clone())
        .collect();
    let asked = details
        .map(|details| details.retry_after_seconds)
        .filter(|secs| *secs > 0)
        .map(|secs| Duration::from_secs(u64::from(secs.min(60))));
    // The message is the same for every budget; which one it is, and what it lacks, says the cause.
    let said = details.iter().flat_map(|details| &details.causes);
    let mut message = status.message.clone();
    for cause in said {
        // An admission policy says the same in both.
        if !message.contains(&cause.message) {
            message.push(' ');
            message.push_str(&cause.message);
        }
    }
    Answer::read(RawAnswer {
        code: status.code,
        reason: &status.reason,
        message: &message,
        is_status: status.reason != NO_STATUS,
        causes: &causes,
        retry_after: asked.or(pause),
    })
}

/// What people are told of an answer at once, in the planner's words: nothing of one that heals by itself
/// in a moment.
#[must_use]
pub fn told(answer: &Answer) -> Option<(Reason, &str)> {
    match answer {
        Answer::Accepted | Answer::Gone | Answer::Busy { .. } | Answer::NamespaceTerminating => None,
        Answer::Budget { text } => Some((Reason::BudgetBlocks, text)),
        Answer::Denied { text } => Some((Reason::WebhookDenies, text)),
        Answer::ManyBudgets => Some((Reason::ManyBudgets, "more than one budget selects it")),
        Answer::Forbidden { text } => Some((Reason::EvictForbidden, text)),
        Answer::Again { text } => Some((Reason::EvictFails, text)),
    }
}

/// A bounded word for metrics.
#[must_use]
pub const fn class(answer: &Answer) -> &'static str {
    match answer {
        Answer::Accepted => "Accepted",
        Answer::Gone => "Gone",
        Answer::Budget { .. } => "Budget",
        Answer::Busy { .. } => "Busy",
        Answer::Denied { .. } => "Denied",
        Answer::ManyBudgets => "ManyBudgets",
        Answer::NamespaceTerminating => "NamespaceTerminating",
        Answer::Forbidden { .. } => "Forbidden",
        Answer::Again { .. } => "Again",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde_json::{Value, json};

    /// As kube builds it for a body that is no Status.
    fn plain(code: u16, text: &str) -> Value {
        json!({"status": "Failure", "code": code, "message": text, "reason": NO_STATUS})
    }

    fn refused(code: u16, reason: &str, message: &str, details: Value) -> Value {
        json!({"status": "Failure", "code": code, "reason": reason, "message": message, "details": details})
    }

    #[test]
    fn every_answer_of_the_eviction_api_is_read_as_what_it_means() {
        let none = || json!({});
        let budget = json!({"causes": [{"reason": "DisruptionBudget", "message": "web needs 2 healthy pods and has 2"}]});
        let ending = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        let cases = [
            ("Gone", refused(404, "NotFound", "pods \"a\" not found", none())),
            (
                "Gone",
                refused(
                    409,
                    "Conflict",
                    "Precondition failed: UID in precondition: x, UID in object meta: y",
                    none(),
                ),
            ),
            (
                "Budget",
                refused(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    budget,
                ),
            ),
            ("Busy", plain(429, "Too many requests, please try again later.")),
            ("Denied", refused(429, "TooManyRequests", "not now", none())),
            (
                "Denied",
                refused(
                    403,
                    "Forbidden",
                    "admission webhook \"a.b.c\" denied the request: no",
                    none(),
                ),
            ),
            (
                "Denied",
                refused(
                    500,
                    "InternalError",
                    "admission webhook \"a.b.c\" denied the request without explanation",
                    none(),
                ),
            ),
            (
                "ManyBudgets",
                refused(
                    500,
                    "InternalError",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                    none(),
                ),
            ),
            (
                "Again",
                refused(500, "InternalError", "etcdserver: request timed out", none()),
            ),
            (
                "Again",
                refused(504, "Timeout", "request did not complete", none()),
            ),
            (
                "Again",
                refused(
                    403,
                    "Forbidden",
                    "poddisruptionbudgets.policy \"web\" is forbidden: pdb disruptions allowed is negative",
                    none(),
                ),
            ),
            (
                "NamespaceTerminating",
                refused(
                    403,
                    "Forbidden",
                    "unable to create new content in namespace x because it is being terminated",
                    ending,
                ),
            ),
            (
                "Forbidden",
                refused(
                    403,
                    "Forbidden",
                    "User \"u\" cannot create resource \"pods/eviction\" in API group \"\" in the namespace \"x\"",
                    none(),
                ),
            ),
        ];
        for (expected, status) in cases {
            let parsed: Status = serde_json::from_value(status.clone()).unwrap();
            let answer = read::<()>(&Err(kube::Error::Api(Box::new(parsed))), None);
            assert_eq!(class(&answer), expected, "{status}");
        }
        assert_eq!(class(&read(&Ok(()), None)), "Accepted");
    }

    #[test]
    fn an_admission_policy_that_denies_is_named_once() {
        let denial = "ValidatingAdmissionPolicy 'keep' with binding 'all' denied request: not by day";
        let status = refused(
            422,
            "Invalid",
            &format!("pods \"a\" is forbidden: {denial}"),
            json!({"name": "a", "kind": "pods", "causes": [{"message": denial}]}),
        );
        let status: Status = serde_json::from_value(status).unwrap();
        let answer = read::<()>(&Err(kube::Error::Api(Box::new(status))), None);
        let told = told(&answer).unwrap();
        assert_eq!(
            told,
            (
                Reason::WebhookDenies,
                format!("pods \"a\" is forbidden: {denial}").as_str()
            )
        );
    }

    #[test]
    fn a_budget_that_blocks_is_named_by_its_own_words() {
        let status = refused(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
            json!({"causes": [{"reason": "DisruptionBudget", "message": "web needs 2 healthy pods and has 2"}]}),
        );
        let status: Status = serde_json::from_value(status).unwrap();
        let answer = read::<()>(&Err(kube::Error::Api(Box::new(status))), None);
        let (reason, text) = told(&answer).unwrap();
        assert_eq!(reason, Reason::BudgetBlocks);
        assert!(text.ends_with("web needs 2 healthy pods and has 2"), "{text}");
    }

    #[test]
    fn an_overloaded_servers_own_pause_is_kept() {
        let status: Status = serde_json::from_value(plain(429, "Too many requests")).unwrap();
        let answer = read::<()>(
            &Err(kube::Error::Api(Box::new(status))),
            Some(Duration::from_secs(7)),
        );
        assert_eq!(
            answer,
            Answer::Busy {
                retry_after: Duration::from_secs(7)
            }
        );
    }
}
