//! `keygen` and `rotate-root`.

use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{self, RotateRequest};
use jiff::Timestamp;

use crate::args::{KeygenArgs, RotateArgs, lifetime};
use crate::show::Show;

pub async fn keygen(args: KeygenArgs, show: &Show) -> anyhow::Result<()> {
    let made = generate(KeygenRequest {
        out: args.out,
        keys: args.keys,
        threshold: args.threshold,
        root_lifetime: lifetime(args.root_days),
        now: Timestamp::now(),
    })
    .await?;
    let mut text = format!(
        "Root    {} (expires {})\n        Ship it in every node's image: trust starts there.\nKeys    keep root and targets keys offline, each with another person where the threshold is above 1:\n",
        made.root.display(),
        made.root_expires
    );
    for key in &made.keys {
        text += &format!("        {}\n", key.display());
    }
    show.result(&made, &text)
}

pub async fn rotate_root(args: RotateArgs, show: &Show) -> anyhow::Result<()> {
    let request = RotateRequest {
        signing: args.signing.signing(),
        new_keys: args.new_keys,
        threshold: args.threshold,
    };
    let rotated = publish::rotate_root(request).await?;
    let changed = match rotated.changed_roles.as_slice() {
        [] => "the keys stay, the root has more time".to_owned(),
        roles => format!("other keys for {}", roles.join(", ")),
    };
    let text = format!(
        "Root    {} (version {})\nChange  {changed}\nNodes follow by themselves at their next check. Ship the new root in the next image too.",
        rotated.root.display(),
        rotated.version
    );
    show.result(&rotated, &text)
}
