//! Asking the guard, or doing the same on the journal where none runs.

use drydock_machine::{GuardStatus, Request};

use super::session::{CliError, Session};
use crate::guard::{AskError, offline, run_checks};

impl Session {
    /// How the node stands, and whether a guard said so.
    pub(super) async fn stands(&self) -> Result<(GuardStatus, bool), CliError> {
        match self.guard.ask(&Request::Status).await {
            Ok(status) => Ok((status, true)),
            Err(AskError::Away { .. }) => {
                let (view, env, config) = (self.view.clone(), self.env.clone(), self.config.clone());
                let look = move || offline::look(&view, &config.settings, &env, None);
                Ok((tokio::task::spawn_blocking(look).await??, false))
            }
            Err(refused @ AskError::Refused { .. }) => Err(refused.into()),
        }
    }

    /// Has a request followed, by the guard if one runs. A guard that dies over it holds the journal's lock
    /// no more, and the request is followed here: each can be followed twice.
    pub(super) async fn follow(&self, request: Request) -> Result<GuardStatus, CliError> {
        match self.guard.ask(&request).await {
            Ok(status) => return Ok(status),
            Err(AskError::Away { .. }) => {}
            Err(refused @ AskError::Refused { .. }) => return Err(refused.into()),
        }
        if matches!(request, Request::MarkGood(_)) {
            run_checks(self.config.clone(), self.env.clone())
                .await
                .map_err(|text| CliError::Failed {
                    word: "HealthCheck",
                    text: format!("nothing was marked good: {text}"),
                })?;
        }
        let (view, env, config) = (self.view.clone(), self.env.clone(), self.config.clone());
        let follow = move || offline::follow(&view, &config.settings, &env, request);
        Ok(tokio::task::spawn_blocking(follow).await??)
    }
}
