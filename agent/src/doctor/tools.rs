//! What is asked of the system's own programs, where no file and no function tells it. Their answers are read by what does not
//! change with the system's language.

use std::path::Path;
use std::time::Duration;

use super::PowerPlan;
use crate::process::Surroundings;

/// How long a program may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What programs told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) clock_is_synchronised: Option<bool>,
    pub(super) on_battery: Option<bool>,
    pub(super) low_power_mode: Option<bool>,
    pub(super) power_plan: Option<PowerPlan>,
}

/// Asks the programs of this system.
pub(super) async fn ask(surroundings: &Surroundings) -> Told {
    let answer = async |program: &str, arguments: &[&str]| {
        surroundings.output(Path::new(program), arguments, DEADLINE, MAX_ANSWER).await.ok()
    };
    if cfg!(target_os = "linux") {
        let text = answer("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await;
        Told { clock_is_synchronised: text.as_deref().and_then(synchronised), ..Told::default() }
    } else if cfg!(target_os = "macos") {
        let (power, settings) =
            (answer("/usr/bin/pmset", &["-g", "ps"]).await, answer("/usr/bin/pmset", &["-g"]).await);
        let on_battery = power.as_deref().and_then(on_battery);
        Told { on_battery, low_power_mode: settings.as_deref().and_then(low_power_mode), ..Told::default() }
    } else if cfg!(windows) {
        let text = answer("powercfg.exe", &["/getactivescheme"]).await;
        Told { power_plan: text.as_deref().and_then(power_plan), ..Told::default() }
    } else {
        Told::default()
    }
}

fn synchronised(text: &str) -> Option<bool> {
    match text.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Of `pmset -g ps`.
fn on_battery(text: &str) -> Option<bool> {
    let source = text.lines().next()?;
    let is = |name: &str| source.contains(name);
    if is("'Battery Power'") { Some(true) } else { is("'AC Power'").then_some(false) }
}

/// Of `pmset -g`.
fn low_power_mode(text: &str) -> Option<bool> {
    let mut words = text.lines().map(str::split_whitespace).map(|mut words| (words.next(), words.next()));
    words.find_map(|words| match words {
        (Some("lowpowermode" | "powermode"), Some(value)) => Some(value == "1"),
        _ => None,
    })
}

/// Of `powercfg /getactivescheme`, which names the plan by an id that is the same everywhere.
fn power_plan(text: &str) -> Option<PowerPlan> {
    let is_id = |word: &&str| word.len() == 36 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    Some(match text.split_whitespace().find(is_id)?.to_ascii_lowercase().as_str() {
        "8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c" | "e9a42b02-d5df-448d-aa00-03f14749eb61" => PowerPlan::Performance,
        "381b4222-f694-41f0-9685-ff5bb260df2e" => PowerPlan::Balanced,
        "a1841308-3541-4fab-bc81-f71556f20b4a" => PowerPlan::Saver,
        _ => PowerPlan::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_service_is_read() {
        assert_eq!((synchronised("yes\n"), synchronised("no"), synchronised("")), (Some(true), Some(false), None));
    }

    #[test]
    fn a_macs_power_is_read() {
        assert_eq!(on_battery("Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t95%"), Some(true));
        assert_eq!(on_battery("Now drawing from 'AC Power'\n"), Some(false));
        assert_eq!(on_battery(""), None);
        assert_eq!(low_power_mode("System-wide power settings:\n lowpowermode         1\n"), Some(true));
        assert_eq!(low_power_mode(" sleep 1\n powermode 0\n"), Some(false));
        assert_eq!(low_power_mode(" sleep 1\n"), None);
    }

    #[test]
    fn a_plan_of_windows_is_read_in_any_language() {
        let plan = |id: &str| power_plan(&format!("GUID des Energieschemas: {id}  (Höchstleistung)\r\n"));
        assert_eq!(plan("8C5E7FDA-e8bf-4a96-9a85-a6e23a8c635c"), Some(PowerPlan::Performance));
        assert_eq!(plan("381b4222-f694-41f0-9685-ff5bb260df2e"), Some(PowerPlan::Balanced));
        assert_eq!(plan("a1841308-3541-4fab-bc81-f71556f20b4a"), Some(PowerPlan::Saver));
        assert_eq!(plan("00000000-0000-0000-0000-000000000001"), Some(PowerPlan::Other));
        assert_eq!(plan("none"), None);
    }
}
