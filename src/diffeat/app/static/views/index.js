// The views, in the order of the bar at the top. To add one: write views/x.js, and name it here.
import explore from "./explore.js";
import match from "./match.js";
import stores from "./stores.js";

export const VIEWS = [explore, match, stores];
