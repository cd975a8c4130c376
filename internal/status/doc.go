// Package status is the model of what the daemon tells about itself: engines fill it, internal/api renders it as JSON,
// metrics and text. Its JSON is a contract (openapi.json).
//
//	Status    what holds now: uplinks, LANs, policies, problems
//	Event     what has changed, a line of the decision log
//	History   what was seen of the last day
//	Usage     what metered uplinks have carried
package status
