import { render } from "preact";
import { App } from "./app";
import { startRouting } from "./route";
import "./style/base.css";
import "./style/controls.css";
import "./style/marks.css";
import "./style/pages.css";
import "./style/runs.css";
import "./style/viewer.css";

startRouting();
const root = document.getElementById("app");
if (root) render(<App />, root);
