'use strict';

/* The summary opens first; asv's grid is at #/ */
if (!location.hash) {
    location.replace('summary.html');
}

/* A page that is opened as a file may not read the files beside it, but it may run them: every X.json is there as
   X.json.js too, which hands its content to dashboard_data. */
(function ($) {
    if (location.protocol !== 'file:') {
        return;
    }
    var latest;
    window.dashboard_data = function (data) {
        latest = data;
    };
    $.ajaxTransport('+*', function (options) {
        var script, path = options.url.replace(/\?.*$/, '');
        return {
            send: function (headers, complete) {
                if (!/\.json$/.test(path)) {  /* asv asks for an icon to learn whether the server is there */
                    complete(200, 'success', {text: ''});
                    return;
                }
                script = $('<script>').prop('src', path + '.js').on('load error', function (event) {
                    var found = event.type === 'load';
                    script.remove();
                    complete(found ? 200 : 404, event.type, found ? {json: latest} : undefined);
                });
                document.head.appendChild(script[0]);
            },
            abort: $.noop
        };
    });
})(jQuery);
