//! `drydock-coordinator run`: one replica in a pod (or anywhere with a kubeconfig).

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use drydock_api::SpanText;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{Settings, SystemClock};

const SHORTEST_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// How one replica is run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of this replica; a random part is added for the Lease.
    #[arg(long, env = "POD_NAME", default_value = "drydock-coordinator")]
    name: String,
    /// Namespace of the Lease and of the coordinator's own pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "drydock-system")]
    namespace: String,
    /// The Node that this replica runs on.
    #[arg(long, env = "NODE_NAME")]
    node: Option<String>,
    /// Where the newest trusted metadata of each repository is kept.
    #[arg(long, env = "DRYDOCK_DATA_DIR", default_value = "/var/lib/drydock")]
    data_dir: PathBuf,
    /// Where /metrics, /healthz and /readyz are served; `none` for nowhere.
    #[arg(long, env = "DRYDOCK_LISTEN", default_value = "0.0.0.0:8080")]
    listen: String,
    /// How long other replicas wait before they take a Lease that was not renewed.
    #[arg(long, default_value = "15s")]
    lease_duration: SpanText,
    /// How long the leader goes on without a renewal that succeeded.
    #[arg(long, default_value = "10s")]
    renew_deadline: SpanText,
    /// Pause between two tries for the Lease.
    #[arg(long, default_value = "2s")]
    retry_period: SpanText,
    /// A plan is made at least this often.
    #[arg(long, default_value = "30s")]
    poll_ceiling: SpanText,
    /// Pause before a node is taken again whose attempt came to nothing; where it did not even reboot, each
    /// further one is twice as long.
    #[arg(long, default_value = "5m")]
    retry_pause: SpanText,
    /// What is logged, as in `RUST_LOG`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// Logs as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

/// Runs until SIGTERM or SIGINT, then gives the Lease up.
///
/// # Errors
/// When arguments contradict each other, or no cluster can be found.
pub fn main(args: Args) -> anyhow::Result<()> {
    start_log(&args)?;
    let settings = settings(args)?;
    let runtime = tokio::runtime::Runtime::new().context("the async runtime")?;
    runtime.block_on(async {
        let config = kube::Config::infer()
            .await
            .context("no cluster was found: neither a kubeconfig nor a service account")?;
        let cancel = CancellationToken::new();
        let (mut term, mut int) = (
            signal(SignalKind::terminate()).context("SIGTERM")?,
            signal(SignalKind::interrupt()).context("SIGINT")?,
        );
        let until_signal = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::info!("told to stop");
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = crate::run(settings, config, Arc::new(SystemClock), cancel.clone()) => Ok(ended?),
            () = until_signal => Ok(()),
        }
    })
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).with_context(|| {
        format!(
            "--log {}: write it like info or drydock_coordinator=debug",
            args.log
        )
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if args.log_json {
        log.json().init();
    } else {
        log.init();
    }
    Ok(())
}

fn settings(args: Args) -> anyhow::Result<Settings> {
    let listen: Option<SocketAddr> = match args.listen.as_str() {
        "none" => None,
        address => Some(
            address
                .parse()
                .with_context(|| format!("--listen {address}: write it like 0.0.0.0:8080, or none"))?,
        ),
    };
    let (duration, deadline): (Duration, Duration) = (args.lease_duration.into(), args.renew_deadline.into());
    anyhow::ensure!(
        deadline < duration,
        "--renew-deadline {} must be shorter than --lease-duration {}, or two replicas could lead",
        args.renew_deadline,
        args.lease_duration
    );
    let retry_pause: Duration = args.retry_pause.into();
    anyhow::ensure!(
        retry_pause >= SHORTEST_RETRY_PAUSE,
        "--retry-pause {}: make it 10s at least, or a node that cannot go is drained again and again",
        args.retry_pause
    );
    let mut settings = Settings::new(&args.name, &args.namespace, args.data_dir);
    settings.lease.duration = duration;
    settings.lease.renew_deadline = deadline;
    settings.lease.retry = args.retry_period.into();
    settings.poll_ceiling = args.poll_ceiling.into();
    settings.timings.pause_base = retry_pause;
    settings.node = args.node;
    settings.listen = listen;
    Ok(settings)
}
