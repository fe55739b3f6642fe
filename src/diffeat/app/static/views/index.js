// The views, in the order of the bar at the top. To add one: write views/x.js, and name it here.
import compare from "./compare.js";
import explore from "./explore.js";
import match from "./match.js";
import segments from "./segments.js";
import stores from "./stores.js";
import strips from "./strips.js";

export const VIEWS = [explore, compare, strips, match, segments, stores];
