# What a machine needs before cnibench can be built, run and tested, and how it gets it.
# Sourced by scripts/cnibench and scripts/test; installs only what is missing and says so first.
# shellcheck shell=bash

say() { printf 'cnibench: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# What is built is looked for from other folders, too.
[ -z "${CARGO_TARGET_DIR:-}" ] || CARGO_TARGET_DIR=$(realpath -m "$CARGO_TARGET_DIR")

# need NAME-OF-PACKAGE WHY TEST...: remembers the package if the test command fails.
missing_packages=()
missing_reasons=()
need() {
    local package=$1 why=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing_packages+=("$package")
        missing_reasons+=("  $package: $why")
    fi
}

have() { command -v "$1"; }

is_debian() {
    [ -r /etc/os-release ] && grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release && have apt-get >/dev/null
}

install_missing() {
    [ ${#missing_packages[@]} -gt 0 ] || return 0
    say "this machine lacks:"
    printf '%s\n' "${missing_reasons[@]}" >&2
    is_debian || die "not Debian or Ubuntu: install these with this system's package manager (names may differ), then try again"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo >/dev/null || die "not root and no sudo: ask an administrator for apt-get install ${missing_packages[*]}"
        as_root=(sudo)
    fi
    say "installing them: ${as_root[*]:+sudo }apt-get install ${missing_packages[*]}"
    "${as_root[@]}" apt-get update -qq </dev/null >&2 ||
        say "the package list could not be renewed; trying with the one that is here"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing_packages[@]}" </dev/null >&2 || die "apt-get could not install them (its words are above)"
    missing_packages=()
    missing_reasons=()
}

# Under sudo, HOME and PATH are root's: rustup and the tree are likely those of the user who called
# it. Crates that root builds go to root's own CARGO_HOME. as_owner: before a command that is better
# run as that user, who owns everything that it would write.
as_owner=()
users_rust() {
    local user=${SUDO_USER:-root} home target=${CARGO_TARGET_DIR:-$root/target}
    [ "$(id -u)" -eq 0 ] && [ "$user" != root ] || return 0
    home=$(getent passwd "$user" | cut -d: -f6)
    if [ -x "$home/.cargo/bin/cargo" ]; then
        PATH=$home/.cargo/bin:$PATH
        export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
    if [ "$(stat -c %U "$root")" = "$user" ] &&
        { [ ! -e "$target" ] || [ -z "$(find "$target" ! -user "$user" -print -quit)" ]; }; then
        as_owner=(sudo -H -u "$user" env "PATH=$PATH" "CARGO_TARGET_DIR=$target")
    fi
}

# The binary is static (.cargo/config.toml), so that pods need nothing beside it.
static_libc() { [ -e "$(cc -print-file-name=libc.a)" ]; }

# The eBPF programs are C (ebpf-probes/build/clang.rs looks for the same compilers).
bpf_compiler() {
    local name
    for name in "${CLANG:-clang}" clang-{25..12}; do
        if have "$name" >/dev/null; then return 0; fi
    done
    return 1
}
bpf_headers() { [ -e /usr/include/bpf/bpf_helpers.h ]; }

# The platform that programs are built for, which is this machine's; their folder is named after it.
host_triple() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    [ -n "$triple" ] || die "rustc -vV does not say its host; is cargo here without rustc?"
    printf '%s\n' "$triple"
}

need_rust() {
    users_rust
    # rustup puts cargo where a shell that was started before does not look.
    # shellcheck disable=SC1091
    have cargo >/dev/null || { [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
    need gcc "the linker that Rust programs are built with" have cc
    need libc6-dev "the C library to be linked statically (libc.a; elsewhere glibc-static)" static_libc
    need clang "the compiler of the eBPF programs" bpf_compiler
    need libbpf-dev "the headers that the eBPF programs include (bpf/bpf_helpers.h)" bpf_headers
    install_missing
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if ! have cargo >/dev/null; then
        die "cnibench is written in Rust: install Rust $wanted or newer (rustup is the usual way), then try again"
    fi
    local found
    found=$(cargo --version | awk '{ print $2 }')
    if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
        die "Rust $found is too old, cnibench needs $wanted: rustup update stable"
    fi
}
