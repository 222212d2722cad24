import { useEffect } from "preact/hooks";
import { Header } from "./components/header";
import { LibraryPage } from "./components/library-page";
import { UserForm } from "./components/user-form";
import { JobPage, WorkspacePage } from "./components/workspace-page";
import { route } from "./route";
import { user } from "./session";
import { system, workflows } from "./state/library";

export function App() {
  const name = user.value;
  useEffect(() => system.start(), []);
  useEffect(() => (name ? workflows.start() : undefined), [name]);
  return (
    <>
      <Header />
      {name ? <Page key={name} /> : <Welcome />}
    </>
  );
}

function Page() {
  const at = route.value;
  switch (at.page) {
    case "library":
      return <LibraryPage />;
    case "slide":
    case "workflow":
      return <WorkspacePage at={at} />;
    case "job":
      return <JobPage key={at.job} job={at.job} />;
    case "unknown":
      return (
        <main class="centered">
          <p class="empty">
            There is no page under this address. <a href="#/">To the slides</a>
          </p>
        </main>
      );
  }
}

function Welcome() {
  return (
    <main class="centered">
      <section class="card welcome">
        <h1>Every cell on the slide</h1>
        <p class="muted">Who is working? Slides and runs are kept apart by name.</p>
        <UserForm />
      </section>
    </main>
  );
}
