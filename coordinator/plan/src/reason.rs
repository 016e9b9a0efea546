//! Why something is, or is not, done: a closed list with stable names, each with a line that says what is
//! waited for and what a person can do. `kubectl drydock explain NAME` prints that line.

use std::{fmt, str::FromStr};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why something is, or is not, done. Names are stable: they stand in statuses, events and
        /// metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $(#[doc = $text] $name,)* }

        impl Reason {
            /// All of them, in the order in which the guide lists them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What is waited for, and what a person can do.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    // What holds everything.
    Superseded => "A newer leader has taken over; this replica stops and runs for the Lease again. Nothing to do.",
    Fencing => "A new leader writes its term everywhere before it plans; this takes one pass. Nothing to do.",
    Rebuilding => "The policy's status was lost; its places in dock are built again from Nodes and NodeUpgrades before anything new starts. Nothing to do.",
    WatchStale => "A watch on the API server has shown neither event nor bookmark for 2 minutes, so nothing new starts. Check the API server and the coordinator's network.",
    ClockSkew => "The coordinator's clock differs from the API server's by more than 30 s, or the difference is not known, so nothing new starts. Check NTP on both.",
    ServerVersionUnknown => "The API server's version is not known, so no kubelet can be compared with it. Check that the coordinator may read /version.",
    // What holds a policy.
    NotAccepted => "The policy cannot work as it is written; the condition Accepted says why. Change the policy.",
    Paused => "The policy is paused: nothing new starts. Set spec.paused to false to go on.",
    WindowClosed => "No window is open. It goes on in the next one (status.nextWindow).",
    WindowTooShort => "What is left of the window is less than an attempt is expected to take, the way back included. It goes on in the next one; widen the windows if this recurs.",
    Frozen => "A freeze covers this time. It goes on when it is over.",
    RepositoryUnknown => "There is no ImageRepository of the name in spec.repository. Create it, or correct the name.",
    RepositoryNotRead => "The repository's metadata could not be read or verified; see the ImageRepository's status.lastError.",
    MetadataExpired => "The repository's metadata has expired; the release engineer must sign a new timestamp.",
    NoRelease => "The repository has no release that this policy could take: none in the channel, or all withdrawn or halted.",
    TooYoung => "The release was published less than spec.release.minAge ago; it is taken when it is old enough.",
    GuessInsteadOfHistory => "What attempts took before kept this policy still for three windows though the configured guess fits them: one node starts on the guess.",
    // What holds a node that is not in dock.
    UpToDate => "The node runs what it should. Nothing to do.",
    TwoPolicies => "More than one UpgradePolicy selects this node, so none takes it. Change the selectors.",
    NoReport => "The node's agent has not reported since its NodeUpgrade was made. Check that drydock-updater runs on the node.",
    AgentSilent => "The agent did not answer in time; it is asked again when it has written, or after an hour. Check drydock-updater on the node.",
    AgentDisagrees => "The agent answered, but its boot ID or its staged release is not what the cluster sees; it is asked again after a pause.",
    AgentUnknown => "The agent speaks a protocol or reports a state that this coordinator does not know. Upgrade the coordinator.",
    AgentError => "The agent reports an error: see status.lastError of its NodeUpgrade.",
    Staging => "The release is being written into the other slot; see status.progress.",
    RunningNotGood => "The running release is not marked good, so the other slot is not touched. Run `drydock-updater status` on the node; after a first install, `drydock-updater adopt`.",
    VersionUnknown => "The version that the node runs is not known, and the release says from which versions it may be reached. Run `drydock-updater adopt` on the node.",
    Soaking => "The node has committed a release and must stay Ready for spec.strategy.soak before anything else is done with it.",
    Halted => "A ReleaseHalt stands against this release. `kubectl drydock explain` shows the evidence, `kubectl drydock forgive` lifts it.",
    FailedHere => "This release failed on this node and is not tried again here. `kubectl drydock forgive NODE` lifts that.",
    Withdrawn => "The release was withdrawn from the repository; it is not started any more.",
    RunsHalted => "The node runs a halted release and stays on it until a newer one is there, or a policy that pins an older one says allowDowngrade.",
    NoPath => "No release leads from what the node runs to the target: minFrom or a stepping stone is in the way. Publish the missing step, or install the node anew.",
    Downgrade => "The target's version is below the running one. Set spec.allowDowngrade (and the same in the node's config) if that is meant.",
    BelowFloor => "The target's version is below the floor of what the node runs; no setting allows that.",
    NoGuard => "The release's manifest declares no guard, so no node takes it. Build it with the updater inside.",
    VersionSkew => "The release's kubelet is newer than the API server, or more than three minor versions older. Upgrade the control plane, or set spec.allowVersionSkew.",
    WayBackUnreadable => "The release writes shared state that the running one could not read after going back. Release a step between, or set spec.allowStateLoss.",
    NodeDeleting => "The Node is being deleted.",
    Held => "The last attempt came to nothing, for the reason named; the node is taken again after a pause, which grows where it did not even reboot.",
    Budget => "As many nodes are unavailable as spec.strategy.maxUnavailable allows. See which are NotReady or cordoned.",
    Topology => "A node of another failure domain (spec.strategy.topologyKey) is unavailable.",
    ControlPlane => "Another control-plane node is unavailable; they go one at a time over all policies.",
    CanaryFirst => "The first nodes of this release must commit and soak before others follow.",
    OwnNodeLast => "The coordinator runs on this node; it goes when no other node is left to do.",
    Next => "The node is ready and waits for its turn.",
    // What a node in dock waits for.
    Asked => "The agent was asked whether it is there and has staged the release; it must answer within a minute.",
    Draining => "Pods are being evicted.",
    PodTerminating => "Evicted pods are shutting down, within their own grace periods.",
    BudgetBlocks => "A PodDisruptionBudget does not let a pod go now; it is asked again until the drain's deadline. Check whether the pod's replicas are healthy.",
    ManyBudgets => "More than one PodDisruptionBudget selects a pod, which the API server cannot evict then. Remove one of them.",
    PodRefused => "The policy does not let this pod be evicted (emptyDir, or no controller). Move the pod, or change spec.drain.",
    PodReturns => "A pod was scheduled to the cordoned node again, because it tolerates the cordon. Change its tolerations, or skip it by spec.drain.skipPodSelectors.",
    WebhookDenies => "An admission webhook or a ValidatingAdmissionPolicy, which the text names, denies the eviction of a pod; it is asked again until the drain's deadline. Check what it is for, or skip the pod by spec.drain.skipPodSelectors.",
    EvictForbidden => "The coordinator has no right to evict pods. Apply its ClusterRole again.",
    ApiBusy => "The API server asked for a pause.",
    NamespaceTerminating => "A pod's namespace is being deleted; the pod goes with it.",
    VolumeDetaching => "The pods are gone, but volumes that they used are still attached to the node (spec.drain.waitForVolumeDetach), or nobody sees whether they are; that is waited for until the drain's deadline. See `kubectl get volumeattachments`, and the CSI driver where one stays.",
    EvictFails => "The API server could not evict a pod; it is asked again until the drain's deadline.",
    OwnPodStays => "The coordinator's own pod is left on the node and goes down with the reboot.",
    ListingPods => "The node's pods are listed from the server.",
    Drained => "All pods that must go are gone.",
    DrainForced => "The drain's time is over and spec.drain.onTimeout is Force: the node reboots with the pods that are left.",
    Granted => "The node may arm and reboot.",
    Rebooting => "The node is going down and coming up again.",
    OnTrial => "The node runs the release on trial: its own checks run.",
    Confirming => "The node's own checks passed; the coordinator waits to see the Node Ready with a new boot ID.",
    GoingBack => "The node is going back to the release it ran before.",
    TakingBack => "The grant was removed; the agent's answer, or the grant's end and a margin, is waited for.",
    NotBack => "The node has not come back by its deadline. It keeps its cordon and its place. Look at its console; if it never returns delete the Node, or `kubectl drydock release NODE`.",
    Undecided => "The node is up, but has neither committed nor gone back by its deadline. It keeps its cordon and its place. Look at `drydock-updater status` there, or `kubectl drydock release NODE`.",
    NoWayBack => "The release failed, but the node has no other slot to go back to. Repair it, then `kubectl drydock release NODE`.",
    AnswerAwaited => "The NodeUpgrade was lost; the agent's first report, or the longest life of a grant, is waited for.",
    AttemptWithoutPolicy => "The node is on trial, but no single policy selects it any more; it goes back by itself.",
    NodeMadeAgain => "The Node was made again while it was in dock; its old NodeUpgrade has to be collected first.",
    MarkUnreadable => "The annotation drydock.dev/dock is not of Drydock's form; nothing is done with that node. Remove it, and uncordon the node if it is cordoned for no other reason.",
    AskUnreadable => "The annotation drydock.dev/ask is not of Drydock's form. Remove it and use `kubectl drydock`.",
    Leaving => "The outcome is recorded; the node is being uncordoned.",
    // How an attempt ended.
    Committed => "The node runs the release, marked good.",
    Failed => "The release failed on the node, and the node went back.",
    Unconfirmed => "A trial boot ended without an outcome (a power cut), or heard no word from the cluster in time; the node went back, and is tried once more.",
    Excused => "The node went back for a reason that was not its own (no API server, or no other Node Ready); it is tried again.",
    NotTried => "The attempt ended before any trial boot.",
    Canceled => "A person canceled the attempt.",
    Released => "A person let the node go as it is.",
    HumanUncordon => "A person uncordoned the node before its grant, which cancels the attempt.",
    WishChanged => "Another release is wanted now than the attempt was made for.",
    PolicyGone => "The policy that took the node is gone.",
    NotSelected => "The policy that took the node does not select it any more.",
    NodeRebooted => "The node rebooted by itself before it was granted that.",
    DrainTimeout => "The drain's time is over (spec.drain.timeout, onTimeout Abort). See which pods did not go.",
    GrantOver => "The grant's time was over before the node rebooted.",
    GrantRefused => "The agent did not use the grant: see status.attempt and status.lastError of its NodeUpgrade.",
    GrantLost => "The grant was removed from the NodeUpgrade by someone else.",
    PlaceLost => "The policy's status does not hold the attempt's place any more.",
    NotReadyInSoak => "The node did not stay Ready while its new release soaked.",
    RolledBack => "The node does not run the release any more that it committed.",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no reason that this version knows; `kubectl drydock explain` without a name lists them")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == text)
            .ok_or_else(|| UnknownReason(text.chars().take(64).collect()))
    }
}

/// A reason with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The reason.
    pub reason: Reason,
    /// What it is about, in this case: numbers, names, times. Empty where the reason says all.
    pub text: String,
}

impl Note {
    /// A reason and its particulars.
    #[must_use]
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

impl From<Reason> for Note {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.name())?;
        if self.text.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.text)
        }
    }
}
