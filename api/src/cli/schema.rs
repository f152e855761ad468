//! `oms schema`

use super::print_line;

pub(super) fn run() -> anyhow::Result<()> {
    print_line(crate::graphql::sdl().trim_end())
}
