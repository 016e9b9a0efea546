//! `/metrics`, `/healthz` and `/readyz` over HTTP. Reads only; a replica works the same without it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

use crate::{link::Link, metrics::Metrics};

/// What the pages show.
#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    link: Link,
    ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Serves until it is dropped. The address may have port 0; the bound one is logged.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    link: Link,
    ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    let app = router(metrics, link, ready);
    axum::serve(listener, app).await
}

fn router(metrics: Metrics, link: Link, ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(show_ready))
        .with_state(Shown { metrics, link, ready })
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let kind = [(
        "content-type",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    match shown.metrics.text() {
        Ok(text) => (StatusCode::OK, kind, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn show_ready(State(shown): State<Shown>) -> impl IntoResponse {
    if shown.link.silent_for().is_none() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server never answered".to_owned(),
        );
    }
    match (shown.ready)() {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
