import java.io.IOException;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.stream.Stream;

/**
 * The JDK's client with its defaults: to plain HTTP it offers {@code Upgrade: h2c}. Arguments and
 * output are those of the other programs.
 */
class JdkHttpClient {
  static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
  static final HttpClient client = HttpClient.newHttpClient();

  static URI uri;
  static String body;
  static String key;
  static String last = "";

  public static void main(String[] arguments) throws Exception {
    uri = URI.create(arguments[1]);
    switch (arguments[0]) {
      case "resume" -> last = arguments[2];
      case "post" -> {
        body = arguments[2];
        key = arguments.length > 3 ? arguments[3] : null;
      }
    }
    while (!follow()) Thread.sleep(1000);
    System.exit(0);
  }

  static HttpRequest request() {
    var request = HttpRequest.newBuilder(uri).header("Accept", "text/event-stream");
    if (!last.isEmpty()) request.header("Last-Event-ID", last);
    if (body == null) return request.build();
    if (key != null) request.header("Idempotency-Key", key);
    request.header("Content-Type", "application/json");
    return request.POST(BodyPublishers.ofString(body)).build();
  }

  /** Whether the terminal event has come; false where the connection broke. */
  static boolean follow() throws InterruptedException {
    HttpResponse<Stream<String>> response;
    try {
      response = client.send(request(), BodyHandlers.ofLines());
    } catch (IOException broken) {
      return false;
    }
    try (var lines = response.body()) {
      if (response.statusCode() != 200)
        throw new IllegalStateException(response.statusCode() + lines.toList().toString());
      // From now on the answer is followed where it is.
      response.headers().firstValue("Location").ifPresent(it -> uri = uri.resolve(it));
      body = null;
      var id = last;
      for (var each = lines.iterator(); each.hasNext(); ) {
        var line = each.next();
        if (line.startsWith("id: ")) id = line.substring(4);
        if (!line.startsWith("data: ")) continue;
        if (tell(id, line.substring(6))) return true;
        last = id;
      }
    } catch (UncheckedIOException broken) {
      return false;
    }
    return false;
  }

  static boolean tell(String id, String data) {
    var quoted = data.replace("\\", "\\\\").replace("\"", "\\\"");
    out.println("{\"id\": \"" + id + "\", \"data\": \"" + quoted + "\"}");
    return data.matches("\\{\"type\":\"run\\.(completed|failed|cancelled)\".*");
  }
}
