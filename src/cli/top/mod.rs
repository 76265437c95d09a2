//! `uraid top`: what arrays do, on a screen that keeps up.
//!
//! One thread for each array asks its server and hands over what it said; the screen is drawn by
//! the thread that reads the keys, so that a server that hangs leaves `q` at work.

pub mod args;
mod bars;
mod ends;
mod frame;
mod gauges;
mod members;
#[cfg(test)]
mod tests;
mod view;

use super::output::Output;
use super::target;
use crate::control::client::Client;
use crate::failure::{Doing, Failure};
use args::{Size, TopArgs};
use ends::Ends;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use view::{Answer, Look, View};

/// Longest time that a key or an answer waits for the screen.
const REDRAW_MAX: Duration = Duration::from_millis(100);

/// How long a screen is left as it is when nothing happens: time goes on in it.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Between two looks at the last hour: its samples come no faster.
const TREND_INTERVAL: Duration = Duration::from_secs(10);

/// Most answers that wait to be drawn.
const ANSWERS_MAX: usize = 16;

/// Shows the arrays until `q`, or once.
pub fn run(args: &TopArgs, output: Output) -> Result<(), Failure> {
    if output.json {
        return Err(Failure::usage(
            "a screen has no JSON; use `uraid status --json`, with --watch for one each second",
        ));
    }
    let clients = target::resolve_all(&args.server)?;
    if args.once {
        return once(&clients, args);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "this is no terminal; use `uraid top --once`, which prints one screen as text, or \
             `uraid status`",
        ));
    }
    let ends = Ends::wait_for()?;
    let mut terminal = ratatui::try_init().doing(|| "use the terminal".to_string())?;
    let result = watch(&mut terminal, clients, args.interval(), &ends);
    ratatui::restore();
    ends.have_their_way()?;
    result
}

/// Draws and takes keys until one of them, or a signal, means the end.
fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    clients: Vec<Client>,
    interval: Duration,
    ends: &Ends,
) -> Result<(), Failure> {
    let what = || "draw on the terminal".to_string();
    let mut view = View::new(clients.iter().map(target::name_of).collect(), interval);
    let answers = ask(clients, interval)?;
    loop {
        terminal
            .draw(|frame| frame::draw(&view, Instant::now(), frame))
            .doing(what)?;
        let drawn = Instant::now();
        loop {
            let mut changed = drawn.elapsed() > IDLE_MAX;
            for (index, answer) in answers.try_iter() {
                view.take(index, answer);
                changed = true;
            }
            if event::poll(REDRAW_MAX).doing(what)? {
                match event::read().doing(what)? {
                    Event::Key(key) if is_end(key) => return Ok(()),
                    Event::Key(key) if key.kind == KeyEventKind::Press => press(&mut view, key),
                    // A new size among them.
                    _ => {}
                }
                changed = true;
            }
            if ends.has_come() {
                return Ok(());
            }
            if changed {
                break;
            }
        }
    }
}

/// In this mode of the terminal Ctrl-C is a key like others.
fn is_end(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || key.code == KeyCode::Char('q')
}

fn press(view: &mut View, key: KeyEvent) {
    match key.code {
        KeyCode::Right | KeyCode::Tab => view.step(1),
        KeyCode::Left | KeyCode::BackTab => view.step(-1),
        KeyCode::Down => view.scroll(1),
        KeyCode::Up => view.scroll(-1),
        KeyCode::Char('p') => view.paused = !view.paused,
        KeyCode::Char('h' | '?') => view.help = !view.help,
        KeyCode::Esc => view.help = false,
        _ => {}
    }
}

/// Has every server asked again and again, each by a thread that ends with the process.
fn ask(clients: Vec<Client>, interval: Duration) -> Result<Receiver<(usize, Answer)>, Failure> {
    let (sender, answers) = sync_channel(ANSWERS_MAX);
    for (index, client) in clients.into_iter().enumerate() {
        let sender = sender.clone();
        let asking = move || ask_one(index, &client, interval, &sender);
        let thread = thread::Builder::new().name("uraid-top".to_string());
        thread
            .spawn(asking)
            .doing(|| "start a thread".to_string())?;
    }
    Ok(answers)
}

fn ask_one(
    index: usize,
    client: &Client,
    interval: Duration,
    sender: &SyncSender<(usize, Answer)>,
) {
    let mut trend_at: Option<Instant> = None;
    loop {
        let wants_trend = trend_at.is_none_or(|at| at.elapsed() >= TREND_INTERVAL);
        let answer = look(client, wants_trend);
        // One that was away may have begun anew, and its last hour with it.
        trend_at = match &answer {
            Ok(look) if look.trend.is_some() => Some(Instant::now()),
            Ok(_) => trend_at,
            Err(_) => None,
        };
        if sender.send((index, answer)).is_err() {
            return;
        }
        thread::sleep(interval);
    }
}

/// Asks a server, whose last hour is shown if it has one to tell of.
fn look(client: &Client, wants_trend: bool) -> Answer {
    let status = client.status()?;
    let at = Instant::now();
    let trend = wants_trend.then(|| client.trend(0).ok()).flatten();
    let trend = trend.map(|trend| trend.samples);
    Ok(Look { at, status, trend })
}

/// Prints one screen of each array as text. Rates need two looks.
fn once(clients: &[Client], args: &TopArgs) -> Result<(), Failure> {
    for client in clients {
        let mut view = View::new(vec![target::name_of(client)], args.interval());
        view.take(0, Ok(look(client, true)?));
        thread::sleep(args.interval());
        view.take(0, Ok(look(client, false)?));
        super::output::print(&text(&view, args.size))?;
    }
    Ok(())
}

/// A screen of this size as text.
fn text(view: &View, size: Size) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(size.columns, size.lines));
    let Ok(_) = terminal.draw(|frame| frame::draw(view, Instant::now(), frame));
    lines(terminal.backend().buffer()).join("\n")
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y| {
        let symbols = (0..area.width).map(|x| buffer[(x, y)].symbol());
        symbols.collect::<String>().trim_end().to_string()
    };
    (0..area.height).map(line).collect()
}
