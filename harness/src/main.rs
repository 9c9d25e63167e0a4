//! The command.

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some(cnibench::cni::wireguard_userspace::child::SUBCOMMAND) => {
            cnibench::cni::wireguard_userspace::wireguard_node_main()
        }
        _ => Ok(()),
    }
}
