export {finished, fold, initial, partsOf} from "./fold.js";
export {follow} from "./follow.js";
export {ask, cancel, conversation, PlateauError} from "./service.js";
